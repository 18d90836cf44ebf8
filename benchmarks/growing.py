"""What is measured from the command on: its start, batches, and how time and memory grow."""

import os
import statistics
import sys
from pathlib import Path

import cv2
import numpy as np
from measure import Row, alternate, child
from plan import COMMAND, NETWORKS, Plan, photograph, some


def start_up(plan: Plan) -> list[Row]:
    """From the command to its first word, beside Python doing nothing; medians of runs by turns."""
    python, eye = sys.executable, plan.folder / "small.png"
    from retinal_tl.command import write_example

    if not eye.exists():
        write_example(eye, 512)
    segment = [*COMMAND, "segment", str(eye), "--model", "builtin-fast", "--quality", "fast"]
    ways = {
        "import retinal_tl": ["-c", "import retinal_tl"],
        "retinal_tl --help": [*COMMAND, "--help"],
        "first photograph, builtin-fast, fast": [*segment, "--overwrite", "--output", str(plan.folder / "first")],
    }
    rows = []
    for what, way in ways.items():
        empty = lambda: child([python, "-c", "import numpy, cv2, onnxruntime"])["cpu"]
        pairs = [(child([python, *way]), empty()) for _ in range(2 if plan.quick else 5)]
        ratios = [mine["cpu"] / other for mine, other in pairs]
        rows.append(
            Row(
                "start-up",
                what,
                statistics.median(mine["seconds"] for mine, _ in pairs),
                statistics.median(other for _, other in pairs),
                "processor seconds of `import numpy, cv2, onnxruntime`",
                statistics.median(ratios),
                min(ratios),
                max(ratios),
                at_least=False,
                checked="ratios are of processor time",
            )
        )
    return rows


def batch(plan: Plan) -> list[Row]:
    """Photographs one after the other, from file to files, over their networks alone: neighbors overlap."""
    from retinal_tl.inference import load_run
    from retinal_tl.one_photo import SegmentOptions, segment_file, segmenting
    from retinal_tl.overlap import overlapped
    from retinal_tl.tasks import Task

    rows, count, path = [], 3 if plan.quick else 8, photograph(plan.folder, 12)
    tasks = [Task(path, path.name, f"eye{i}", 75_000) for i in range(count)]
    options = SegmentOptions(picture_bytes=75_000)
    for model in some(plan):
        run, output = load_run(NETWORKS[model], "segmenter"), plan.folder / f"batch-{model}"
        tiles = _tiles(run, path)
        ours = lambda run=run, output=output: list(overlapped(segmenting([run], output, options), tasks))
        network = lambda run=run, tiles=tiles: [run.predict(some) for _ in tasks for some in tiles]
        known, _ = segment_file(path, [run], plan.folder / "alone", options)
        counts = [[row["count"] for row in found] for _, (found, _) in ours()]
        assert counts == [[row["count"] for row in known]] * count, "a batch finds other spots"
        found = alternate(network, ours, 2 if plan.quick else 3)
        rows.append(
            Row(
                "batch",
                f"{model}: {count} of 12 megapixels over network",
                found.pop("other"),
                found.pop("ours"),
                "the same tiles through the same session",
                **found,
                target=1.25,
                at_least=False,
                checked="the counts are those of a photograph alone",
            )
        )
    return rows


def _tiles(run, path: Path) -> list[np.ndarray]:
    """What a network is asked for a photograph."""
    from retinal_tl.inference import crop_maps
    from retinal_tl.preprocess import prepare

    asked: list[np.ndarray] = []
    predict = lambda tiles: asked.append(tiles.copy()) or run.predict(tiles)
    crop_maps(prepare(cv2.imread(str(path))[..., ::-1].copy(), run.card.preprocessing), predict, run.card)
    return asked


def growth(plan: Plan) -> list[Row]:
    """Time, memory and bytes with more photographs and with more pixels."""
    rows, base = [], [sys.executable, *COMMAND, "segment"]
    model = ["--model", "builtin-fast", "--quality", "fast"]
    sizes = (1, 3, 12) if plan.quick else (1, 3, 12, 24, 48, 96)
    time: dict[float, float] = {}
    for size in sizes:
        output = plan.folder / f"size{size}"
        used = child([*base, str(photograph(plan.folder, size)), *model, "--output", str(output)])
        time[size] = used["seconds"]
        limit = {12: 1.0, 96: 2.5}.get(size)
        rows.append(_memory(f"{size} megapixels: most memory", used["memory"], limit))
        rows.append(Row("growth", f"{size} megapixels: time", used["seconds"]))
        rows.append(Row("growth", f"{size} megapixels: written", _bytes(output) / 1e6, unit="MB"))
    rows += _slope("time by megapixels: slope in log-log", time)
    counts = (1, 4) if plan.quick else (1, 4, 16)
    seconds = {}
    for count in counts:
        folder = plan.folder / f"photos{count}"
        folder.mkdir()
        for i in range(count):
            os.link(photograph(plan.folder, 3), folder / f"{i}.jpg")
        used = child([*base, str(folder), *model, "--output", str(plan.folder / f"many{count}")])
        assert len(list((plan.folder / f"many{count}").glob("*_overlay.jpg"))) == count
        seconds[count] = used["seconds"]
        rows.append(Row("growth", f"{count} photographs of 3 megapixels: time", used["seconds"]))
    each = (seconds[counts[-1]] - seconds[1]) / (counts[-1] - 1)
    rows.append(Row("growth", "one more photograph", each))
    return rows + _many((1, 10, 60) if plan.quick else (1, 3, 10, 30, 100, 300), plan, base)


def _slope(what: str, seconds: dict) -> list[Row]:
    """How steep a measure grows: 1 is in proportion. What a start costs is taken off, or the first would hide it."""
    first, *others = sorted(seconds)
    grown = {size: seconds[size] - seconds[first] for size in others if seconds[size] > seconds[first]}
    if len(grown) < 2:
        return []
    logs = np.log([[size - first, value] for size, value in grown.items()])
    return [Row("growth", what, float(np.polyfit(*logs.T, 1)[0]), unit="")]


def _memory(what: str, gigabytes: float, limit: float | None) -> Row:
    """Most memory, against a limit where there is one."""
    ratio = gigabytes / limit if limit else None
    return Row("growth", what, gigabytes, limit, "", ratio, target=limit and 1, at_least=False, unit="GB")


def _bytes(folder: Path) -> int:
    """What was written, which is something."""
    found = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert found, f"nothing was written to {folder}"
    return found


def _many(counts: tuple[int, ...], plan: Plan, base: list[str]) -> list[Row]:
    """Time and memory by the number of small photographs, with a network that is one line of arithmetic."""
    from toy_runs import write_toy_run

    run, rows = write_toy_run(plan.folder / "toy"), []
    seconds, memory = {}, {}
    eye = cv2.resize(cv2.imread(str(photograph(plan.folder, 3))), None, fx=0.25, fy=0.25)
    for count in counts:
        folder, output = plan.folder / f"small{count}", plan.folder / f"done{count}"
        folder.mkdir()
        for i in range(count):
            cv2.imwrite(str(folder / f"{i:03}.jpg"), eye)
        used = child([*base, str(folder), "--model", str(run), "--output", str(output)])
        assert len(list(output.glob("*_overlay.jpg"))) == count
        seconds[count], memory[count] = used["seconds"], used["memory"]
        rows.append(Row("growth", f"{count} small photographs: time", used["seconds"]))
    rows += _slope("time by photographs: slope in log-log", seconds)
    few, many = 10, counts[-1]
    what, ratio = f"{many} photographs: memory over that of {few}", memory[many] / memory[few]
    told = dict(target=1.1, at_least=False, unit="GB", checked="each photograph has its overlay")
    return [*rows, Row("growth", what, memory[many], memory[few], "", ratio, **told)]
