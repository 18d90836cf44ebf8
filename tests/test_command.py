"""The command as users call it: what it writes, what it says, how it ends."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from retinal_tl import command, inference
from retinal_tl.command import main
from toy_runs import write_toy_run

PROCESS = [sys.executable, "-c", "import sys; from retinal_tl.command import main; sys.exit(main())"]


def eye(height=240, width=300, spot=(100, 140), texture=0):
    """uint8 RGB: a dull disk in the colors of a retina with one bright spot of about 11 pixels across."""
    rows, columns = np.ogrid[:height, :width]
    photo = np.where(
        (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (0.46 * min(height, width)) ** 2,
        90 + texture * np.sin(columns * np.pi / 4),
        0,
    ).astype(np.uint8)
    photo[(rows - spot[0]) ** 2 + (columns - spot[1]) ** 2 <= 30] = 230
    return np.dstack([np.minimum(photo * 1.4, 255), photo, photo * 0.4]).astype(np.uint8)


USUAL = dict(height=600, width=600, texture=6)  # large and sharp enough for no warning


def write_eye(path, **changes):
    """A PNG at any path, also one that OpenCV itself would not write to."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", eye(**changes)[..., ::-1])[1].tobytes())
    return path


def read_report(folder):
    with open(folder / "report.csv", newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def written(folder="maps"):
    """What a user sees in an output folder."""
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def said(capsys):
    """What was said, one sentence a line, without how it ended."""
    return [line for line in capsys.readouterr().err.split("\n") if line and not re.match(ENDING, line)]


ENDING = r"retinal_tl: \d+ photographs?: .*\.$"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder to work in, with three runs."""
    monkeypatch.chdir(tmp_path)
    for lesion in ("exudates", "hemorrhages", "soft_exudates"):
        write_toy_run(f"runs/{lesion}", lesions=lesion)
    write_toy_run("runs/any", "classifier")
    return tmp_path


def segment(*photos, lesions=("exudates",), output="maps", options=()):
    models = [text for lesion in lesions for text in ("--model", f"runs/{lesion}")]
    return main(["segment", *models, "--output", str(output), *options, "--", *map(str, photos)])


def test_files_and_numbers(place):
    write_eye("photos/a.png")
    write_eye("photos/b.png", height=301, width=223)
    assert segment("photos", lesions=("exudates", "hemorrhages")) == 0
    kinds = [f"{lesion}_{kind}.png" for lesion in ("exudates", "hemorrhages") for kind in ("probability", "mask")]
    assert written() == sorted(
        [f"{stem}_{kind}" for stem in "ab" for kind in [*kinds, "overlay.jpg"]] + ["report.csv", "report.html"]
    )
    rows = read_report(place / "maps")
    assert [(row["photo"], row["lesion"]) for row in rows] == [
        (f"photos/{stem}.png", lesion) for stem in "ab" for lesion in ("exudates", "hemorrhages")
    ]
    for row in rows:
        probability = cv2.imread(f"maps/{row['files']}_{row['lesion']}_probability.png", cv2.IMREAD_UNCHANGED)
        mask = cv2.imread(f"maps/{row['files']}_{row['lesion']}_mask.png", cv2.IMREAD_UNCHANGED)
        photo = cv2.imread(row["photo"])
        assert probability.dtype == np.uint16 and mask.dtype == np.uint8
        assert (
            probability.shape
            == mask.shape
            == photo.shape[:2]
            == cv2.imread(f"maps/{row['files']}_overlay.jpg").shape[:2]
        )
        assert [row["height"], row["width"]] == [str(side) for side in photo.shape[:2]] and row["area_mm2"] == ""
        assert set(np.unique(mask)) <= {0, 255}
        assert ((probability >= round(float(row["threshold"]) * 65535)) == (mask == 255)).all()
        assert int(row["area_pixels"]) == (mask == 255).sum()
        assert int(row["count"]) == cv2.connectedComponents(mask, connectivity=8)[0] - 1
        assert 0 <= float(row["share_of_field"]) <= 1 and not row["problem"]
        assert "pixels across" in row["warning"]  # these eyes are tiny
    assert rows[0]["count"] == "1" and 60 < int(rows[0]["area_pixels"]) < 140  # the spot of 97 pixels


def test_the_python_api_gives_the_written_map(place):
    from retinal_tl import segment as segment_function

    write_eye("a.png")
    assert segment("a.png") == 0
    probability = segment_function("a.png", "runs/exudates")["exudates"]
    assert (cv2.imread("maps/a_exudates_probability.png", cv2.IMREAD_UNCHANGED) == np.rint(probability * 65535)).all()


def test_threshold(place):
    write_eye("a.png")
    areas = []
    for threshold in ("0", "0.5", "1"):
        assert segment("a.png", options=("--threshold", threshold)) == 0
        (row,) = read_report(place / "maps")
        areas.append(int(row["area_pixels"]))
        assert float(row["threshold"]) == float(threshold)
    assert areas[0] > areas[1] > areas[2]
    assert areas[0] < 240 * 300, "the corners outside the field of view are not lesion"


def test_bad_photographs_cost_only_themselves(place, capsys):
    write_eye("photos/good.png", **USUAL)
    contents = write_eye("photos/truncated.png").read_bytes()
    Path("photos/truncated.png").write_bytes(contents[: len(contents) // 2])
    Path("photos/empty.jpg").touch()
    Path("photos/page.jpg").write_text("<html>")
    Path("photos/black.png").write_bytes(cv2.imencode(".png", np.zeros((200, 200, 3), np.uint8))[1].tobytes())
    Path("photos/folder.png").mkdir()
    assert segment("photos", "absent.jpg") == 1
    rows = {row["photo"]: row for row in read_report(place / "maps")}
    good = rows.pop("photos/good.png")
    assert not good["problem"] and not good["warning"]
    for name in ("photos/truncated.png", "photos/empty.jpg", "photos/page.jpg", "photos/black.png", "absent.jpg"):
        problem = rows[name]["problem"]
        assert Path(name).name in problem and problem.endswith(".") and not rows[name]["area_pixels"], problem
    errors = said(capsys)
    assert "Traceback" not in "".join(errors) and len(errors) == len(rows)
    assert not [name for name in written() if not name.startswith(("good_", "report"))]


def test_stems_that_meet(place, capsys):
    for name in ("left/eye.png", "right/eye.png", "left/eye_soft.png", "left/EYE.PNG"):
        write_eye(name)
    Path("left/eye.bmp").write_bytes(cv2.imencode(".bmp", eye())[1].tobytes())
    photos = ["left/eye.png", "left/eye.bmp", "right/eye.png", "left/eye_soft.png", "left/EYE.PNG"]
    assert segment(*photos, lesions=("soft_exudates", "exudates")) == 0
    rows = read_report(place / "maps")
    stems = {row["photo"]: row["files"] for row in rows}
    assert [stems[photo] for photo in photos[:3]] == ["eye", "eye_bmp", "right_eye"]
    assert len(written()) == 5 * 5 + 2
    assert segment(*photos, lesions=("soft_exudates", "exudates")) == 0
    assert {row["photo"]: row["files"] for row in read_report(place / "maps")} == stems


@pytest.mark.parametrize(
    "name",
    [
        "with space.png",
        'it\'s "so", yes.png',
        "line\nbreak.png",
        "\u7db2\u819c \u00e9.png",
        "-dash.png",
        "=1+1.png",
        "@home.png",
        "%s{0}.png",
        "a" * 251 + ".png",
        "\u00e9" * 125 + ".png",
        os.fsdecode(b"\xff\xfe.png"),
    ],
)
def test_names(place, capsys, name):
    try:
        write_eye(name)
    except OSError:
        pytest.skip("this file system does not take the name")
    assert segment(name) == 0
    (row,) = read_report(place / "maps")
    assert row["photo"][0] not in "=+-@" and "\n" not in row["photo"]
    if name.isprintable():
        assert Path(row["photo"]) == Path(name)
    assert len(written()) == 5
    assert main(["classify", "--model", "runs/any", "--output", "answers", "--", name]) == 0
    assert read_report(place / "answers")[0]["photo"] == row["photo"]


def test_same_file_twice_is_done_once(place):
    write_eye("photos/a.png")
    assert segment("photos/a.png", "photos", place / "photos" / "a.png") == 0
    assert len(read_report(place / "maps")) == 1


def test_output_never_replaces_a_photograph(place):
    first, second = write_eye("a.png").read_bytes(), write_eye("a_overlay.jpg", spot=(140, 100)).read_bytes()
    assert segment("a.png", output=".") == 0 and segment("a_overlay.jpg", output=".") == 0
    assert (Path("a.png").read_bytes(), Path("a_overlay.jpg").read_bytes()) == (first, second)
    assert main(["segment", ".", "--model", "runs/exudates", "--output", "."]) == 2


def test_folder_without_photographs(place, capsys):
    Path("empty").mkdir()
    assert segment("empty") == 1
    assert "no photographs" in read_report(place / "maps")[0]["problem"] and "no photographs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["segmnt"],
        ["segment"],
        ["segment", "a.png"],
        ["segment", "a.png", "--model", "runs/exudates"],
        ["segment", "a.png", "--model", "runs/absent", "--output", "maps"],
        ["segment", "a.png", "--model", "runs/any", "--output", "maps"],
        ["segment", "a.png", "--model", "runs/exudates", "--model", "runs/exudates", "--output", "maps"],
        ["segment", "a.png", "--model", "runs/exudates", "--output", "a.png"],
        ["segment", "a.png", "--model", "runs/exudates", "--output", "a.png/maps"],
        ["segment", "a.png", "--model", "runs/exudates", "--output", "maps", "--threshold", "2"],
        ["segment", "a.png", "--model", "runs/exudates", "--output", "maps", "--threshold", "nan"],
        ["segment", "a.png", "--model", "runs/exudates", "--output", "maps", "--threshold", "0,5"],
        ["segment", "a.png", "--model", "runs/exudates", "--output", "maps", "--threshold", "hemorrhages=0.5"],
        ["segment", "a.png", "--model", "runs/exudates", "--output", "maps", "--sensitivity", "0.9"],
        ["segment", "a.png", "--model", "runs/exudates", "--output", "maps", "--csv-dialect", "german"],
        ["classify", "a.png", "--model", "runs/any", "--threshold", "exudates=0.5"],
        ["segment", "a.png", "--model", "runs/exudates", "--output", "maps", "--lesion", "haemorrhages"],
        ["segment", "a.png", "--model", "runs/exudates", "--output", "maps", "--lesion", "hemorrhages"],
        ["segment", "a.png", "--model", "runs/exudates", "--output", "maps", "--lesion", ""],
        ["segment", "a.png", "--model", "runs/exudates", "--output", "maps", "--format", "gif"],
        ["segment", "a.png", "--model", "runs/exudates", "--output", "maps", "--format", "png,"],
        ["classify", "a.png", "--model", "runs/exudates"],
        ["classify", "a.png", "--model", "runs/any", "--report"],
        ["check-data", "--data", "idird", "--data-root", "."],
        ["check-data", "--data", "idrid", "--data-root", "absent"],
        ["run", "stage3"],
        ["run", "stage1", "-p", "seed"],
    ],
)
def test_wrong_commands(place, capsys, arguments):
    write_eye("a.png")
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("retinal_tl") and len(errors.strip().split("\n")) == 1, errors
    assert not Path("maps/report.csv").exists()


def test_wrong_names_say_the_right_ones(place, capsys):
    write_eye("a.png")
    assert (
        segment("a.png", options=["--lesion", "haemorrhages"]) == 2
        and "did you mean hemorrhages?" in capsys.readouterr().err
    )
    assert segment("a.png", options=["--format", "tiff"]) == 2 and "png, npz, geojson" in capsys.readouterr().err
    assert segment("a.png", options=["--lesion", "hemorrhages"]) == 2 and "only exudates" in capsys.readouterr().err


def test_builtin_is_the_model_that_is_meant(place, monkeypatch, capsys):
    from retinal_tl import inference

    write_eye("a.png")
    load_segmenters, load_run, given = inference.load_segmenters, inference.load_run, []
    monkeypatch.setattr(
        inference,
        "load_segmenters",
        lambda models, quality: given.append(models) or load_segmenters(["runs/exudates", "runs/hemorrhages"], quality),
    )
    monkeypatch.setattr(
        inference,
        "load_run",
        lambda model, *more: given.append(model) or load_run("runs/any" if model == "builtin" else model, *more),
    )
    assert main(["segment", "a.png", "--output", "maps"]) == 0
    assert main(["classify", "a.png"]) == 0
    assert given[0] == ["builtin"] and "builtin" in given[1:]
    assert [row["lesion"] for row in read_report(place / "maps")] == ["exudates", "hemorrhages"]


@pytest.mark.slow
def test_patterns(place, capsys):
    for name in ("left/1.png", "left/2.png", "left/deep/3.png", "right/1.png", "left/odd[1].png", "left/odd1.png"):
        write_eye(name)
    Path("left/notes.txt").write_text("not a photograph")

    def done(*photos):
        output = place / f"maps{len(list(place.glob('maps*')))}"
        return segment(*photos, output=output), [row["photo"] for row in read_report(output)]

    assert done("left/?.png") == (0, ["left/1.png", "left/2.png"])
    assert done("*/1.png", "left/1.png") == (0, ["left/1.png", "right/1.png"])
    assert done("left/**/*") == (0, ["left/1.png", "left/2.png", "left/deep/3.png", "left/odd1.png", "left/odd[1].png"])
    assert done("left/odd[1].png") == (0, ["left/odd[1].png"])
    assert done("d*", "left/*.bmp")[0] == 1 and "fits the pattern left/*.bmp" in capsys.readouterr().err
    assert (
        main(["classify", "rig*", "--model", "runs/any", "--output", "answers"]) == 0
        and len(read_report(place / "answers")) == 1
    )
    assert segment("left/*.png", output="left") == 2 and "holds the photographs" in capsys.readouterr().err


def test_lesions_are_chosen(place):
    write_eye("a.png")
    both = ("exudates", "hemorrhages")
    for options, expected in (
        ([], both),
        (["--lesion", "all"], both),
        (["--lesion", "hemorrhages"], both[1:]),
        (["--lesion", "hemorrhages,exudates"], both),
        (["--lesion", "exudates", "--lesion", "exudates"], both[:1]),
    ):
        folder = place / "_".join(["maps", *options])
        assert segment("a.png", lesions=both, output=folder, options=options) == 0
        assert tuple(row["lesion"] for row in read_report(folder)) == expected
        assert sorted(path.name for path in folder.glob("*_mask.png")) == [
            f"a_{lesion}_mask.png" for lesion in expected
        ]


@pytest.mark.parametrize("flips, looks", [("none", (1, 1, 2)), ("half_turn", (1, 2, 4))])
def test_quality_is_how_often_a_photograph_is_looked_at(place, monkeypatch, flips, looks):
    """Asked for once: the work, which may begin in another process, must not ask for it again."""
    write_eye("eye.png")
    write_toy_run("runs/exudates", lesions=("exudates",), flips=flips)
    asked, really = [], inference.crop_maps
    count = lambda prepared, predict, card: asked.append(card.flips) or really(prepared, predict, card)
    monkeypatch.setattr(inference, "crop_maps", count)
    times = {"none": 1, "half_turn": 2, "all": 4}
    for quality, expected in zip(("fast", "standard", "best"), looks):
        assert segment("eye.png", output=quality, options=("--quality", quality)) == 0
        assert times[asked.pop()] == expected and not asked


def test_formats(place):
    write_eye("photos/a.png")
    both = ("exudates", "hemorrhages")
    assert (
        segment("photos/a.png", lesions=both, options=["--format", "png,npz", "--format", "geojson", "--format", "npz"])
        == 0
    )
    kinds = [f"{lesion}_{kind}" for lesion in both for kind in ("probability", "mask")]
    assert written() == sorted(
        [f"a_{kind}.png" for kind in kinds] + ["a_overlay.jpg", "a.npz", "a.geojson", "report.csv", "report.html"]
    )
    with np.load("maps/a.npz", allow_pickle=False) as stored:
        assert set(stored) == {*both, "lesions", "thresholds", "size"}
        assert (
            stored["lesions"].tolist() == list(both)
            and stored["thresholds"].tolist() == [0.5, 0.5]
            and stored["size"].tolist() == [240, 300]
        )
        for lesion in both:
            stored_map = cv2.imread(f"maps/a_{lesion}_probability.png", cv2.IMREAD_UNCHANGED)
            assert stored[lesion].dtype == np.uint16 and (stored[lesion] == stored_map).all()
    spots = json.loads(Path("maps/a.geojson").read_text())["features"]
    rows = {row["lesion"]: row for row in read_report(place / "maps")}
    assert len(spots) == sum(int(row["count"]) for row in rows.values()) and rows["exudates"]["count"] == "1"
    assert segment("photos/a.png", output="outlines", options=["--format", "geojson", "--no-report"]) == 0
    assert written("outlines") == ["a.geojson", "report.csv"]
    assert segment("photos/a.png", output="bare", options=["--no-maps", "--overlay", "none", "--no-report"]) == 0
    assert written("bare") == ["report.csv"] and len(read_report(place / "bare")) == 1
    assert segment("photos/a.png", output="counts", options=["--no-maps", "--overlay", "png"]) == 0
    assert written("counts") == ["a_overlay.png", "report.csv", "report.html"]


def test_outputs_never_replace_a_photograph_in_any_format(place):
    write_eye("a.png")
    contents = write_eye("a.npz").read_bytes()  # a photograph by this name
    assert segment("a.png", "a.npz", output=".", options=["--format", "npz", "--no-report"]) == 0
    assert Path("a.npz").read_bytes() == contents


def test_report_is_written_when_asked_for(place):
    write_eye("a.png")
    assert segment("a.png") == 0 and "a.png" in Path("maps/report.html").read_text(encoding="utf-8")
    assert segment("a.png", output="bare", options=["--no-report"]) == 0 and not Path("bare/report.html").exists()
    assert (
        main(["classify", "a.png", "--model", "runs/any", "--output", "answers"]) == 0
        and not Path("answers/report.html").exists()
    )
    assert main(["classify", "a.png", "--model", "runs/any", "--output", "answers", "--report"]) == 0
    (row,) = read_report(place / "answers")
    assert f'data-value="{row["lesion_probability"]}"' in Path("answers/report.html").read_text(encoding="utf-8")


def test_warnings_are_said_and_written_and_cost_nothing(place, capsys):
    write_eye("photos/good.png", **USUAL)
    dark = cv2.imread("photos/good.png") // 5
    cv2.imwrite("photos/dark.png", dark)
    assert segment("photos") == 0 and main(["classify", "photos", "--model", "runs/any", "--output", "answers"]) == 0
    for folder in ("maps", "answers"):
        warnings = {row["photo"]: row["warning"] for row in read_report(place / folder)}
        assert warnings["photos/dark.png"].startswith("Too dark") and not warnings["photos/good.png"]
    assert Path("maps/dark_exudates_mask.png").exists()
    printed = capsys.readouterr()
    lines = [line for line in printed.err.split("\n") if line and not re.match(ENDING, line)]
    assert len(lines) == 2 and all(line.startswith("retinal_tl: photos/dark.png: warning: Too dark") for line in lines)
    assert "Too dark" in printed.out and "1 with a warning" in printed.err


def test_classify(place, capsys):
    write_eye("photos/lesion.png")
    write_eye("photos/none.png", spot=(-50, -50), texture=6)
    Path("photos/broken.jpg").touch()
    assert main(["classify", "photos", "--model", "runs/any", "--output", "answers"]) == 1
    rows = {row["photo"]: row for row in read_report(place / "answers")}
    assert rows["photos/lesion.png"]["lesion"] == "yes" and rows["photos/none.png"]["lesion"] == "no"
    assert (
        float(rows["photos/lesion.png"]["lesion_probability"])
        > 0.9
        > 0.1
        > float(rows["photos/none.png"]["lesion_probability"])
    )
    assert rows["photos/broken.jpg"]["problem"] and not rows["photos/broken.jpg"]["lesion"]
    table = capsys.readouterr().out.strip().split("\n")
    names = ["photo", "photos/broken.jpg", "photos/lesion.png", "photos/none.png"]
    assert [line.split()[0] for line in table] == names and "failed" in table[1] and "is empty" in table[1]
    Path("photos/broken.jpg").unlink()
    assert main(["classify", "photos", "--model", "runs/any"]) == 0


def test_help_imports_nothing_heavy():
    script = (
        "import sys; from retinal_tl.command import main; assert main(['--help']) == 0;"
        "print([name for name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for name in ("onnxruntime", "keras", "tensorflow", "matplotlib", "cv2", "numpy", "papermill"):
        assert f"'{name}'" not in done.stderr, name


def test_using_a_model_needs_no_training_packages(place):
    write_eye("a.png")
    script = (
        "import sys; from retinal_tl.command import main; status = main(sys.argv[1:]);"
        "heavy = ('keras', 'tensorflow', 'matplotlib', 'scipy', 'sklearn', 'onnx', 'papermill');"
        "print([name for name in heavy if name in sys.modules]); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "segment", "a.png", "--model", "runs/exudates", "--output", "maps"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip().split("\n")[-1]) == (0, "[]"), done.stderr


def test_closed_pipe_is_quiet(place):
    for i in range(20):
        write_eye(f"photos/{i}.png", **USUAL)
    process = subprocess.Popen(
        [*PROCESS, "classify", "photos", "--model", "runs/any"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.wait(300) == 1
    assert process.stderr.read() == b""


@pytest.mark.slow
def test_interrupt_keeps_what_was_done(place):
    for i in range(60):
        write_eye(f"photos/{i:02}.png", height=1400, width=1400)
    process = subprocess.Popen(
        [*PROCESS, "segment", "photos", "--model", "runs/exudates", "--output", "maps"],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # a shell's background job ignores it
    deadline = time.monotonic() + 300
    while not Path("maps/02_overlay.jpg").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(300) == 130
    errors = process.stderr.read().decode()
    assert "interrupted" in errors and "Traceback" not in errors
    rows = read_report(place / "maps")
    assert 1 <= len(rows) < 60 and not any(row["problem"] for row in rows)
    for row in rows:
        assert cv2.imread(f"maps/{row['files']}_overlay.jpg") is not None
    assert all(row["photo"] in Path("maps/report.html").read_text(encoding="utf-8") for row in rows)
    assert not [name for name in written() if not name.endswith((".png", ".jpg", ".csv", ".html"))]


def write_notebook(path, code):
    """A notebook with one cell of parameters and one of code."""
    cells = [
        dict(cell_type="code", id=tag, execution_count=None, outputs=[], source=source, metadata=dict(tags=[tag]))
        for tag, source in (("parameters", "lesion = 'exudates'; seed = 0; resume = True"), ("work", code))
    ]
    path.write_text(
        json.dumps(
            dict(
                cells=cells,
                nbformat=4,
                nbformat_minor=5,
                metadata=dict(kernelspec=dict(name="python3", display_name="python3", language="python")),
            )
        )
    )
    return path


@pytest.mark.slow
def test_run_with_papermill(place, monkeypatch, capsys):
    monkeypatch.setattr("retinal_tl.command._run_source", lambda stage: place / f"run_{stage}.ipynb")
    write_notebook(place / "run_stage2.ipynb", "print([lesion, seed, resume])")
    for _ in range(2):
        assert main(["run", "stage2", "-p", "lesion", "hemorrhages", "-p", "seed", "3", "-p", "resume", "false"]) == 0
    for name in ("stage2", "stage2-2"):
        assert "['hemorrhages', 3, False]" in (place / "runs" / f"{name}.ipynb").read_text()
    write_notebook(
        place / "run_stage1.ipynb",
        "from retinal_tl.core import RetinalError\nraise RetinalError('There is no lesion drusen.')",
    )
    capsys.readouterr()
    assert main(["run", "stage1", "--notebook", "deep/out.ipynb"]) == 2
    errors = capsys.readouterr().err
    assert (
        "There is no lesion drusen." in errors and "Traceback" not in errors and (place / "deep" / "out.ipynb").exists()
    )


@pytest.mark.slow
@pytest.mark.parametrize("arguments, name", [([], "papermill"), ([], "ipykernel"), (["--no-notebook"], "keras")])
def test_run_without_the_training_extra(place, monkeypatch, capsys, arguments, name):
    def run_stage1(**parameters):
        import keras  # noqa: F401  as the real one does when it begins to train

    monkeypatch.setattr("retinal_tl.command._run_source", lambda stage: place / "absent.ipynb")
    monkeypatch.setitem(sys.modules, "retinal_tl.runs", SimpleNamespace(run_stage1=run_stage1))
    monkeypatch.setitem(sys.modules, name, None)
    assert main(["run", "stage1", *arguments]) == 2
    assert (
        f"needs the package {name}" in (errors := capsys.readouterr().err)
        and "pip install 'retinal_tl[train]'" in errors
    )


@dataclass(frozen=True)
class Study:
    """What a study asks for beside the parameters of the stages."""

    photos: str = "1+2"
    seeds: int = 3


@pytest.fixture
def ask(monkeypatch):
    """Types `retinal_tl run STAGE OPTIONS -p NAME VALUE ...`; gives what arrives at the function of the run."""

    def ask(stage, *options, **typed):
        given = {}
        fake = {f"run_{stage}": lambda **parameters: given.update(parameters), "Transfer": Study, "Tables": Study}
        monkeypatch.setitem(sys.modules, f"retinal_tl.{command._MODULES[stage]}", SimpleNamespace(**fake))
        words = [word for name, value in typed.items() for word in ("-p", name, value)]
        assert main(["run", stage, *(options or ["--no-notebook"]), *words]) == 0
        return given

    return ask


@pytest.mark.parametrize("stage", ["stage2", "transfer", "tables"])
def test_run_without_a_notebook(ask, stage):
    given = ask(stage, width="0.25", data="idrid+eophtha", stage1_run="none")
    assert given == dict(width=0.25, data="idrid+eophtha", stage1_run=None)


@pytest.mark.parametrize("stage", ["stage1", "stage2", "transfer"])
def test_text_stays_text(ask, stage):
    """A folder may be called 2019, and `none` is one of the words that `clahe` takes."""
    typed = dict(
        data_root="2019", output="1e3", clahe="none", csv="null", epochs="3", resume="false", split_seed="none"
    )
    assert ask(stage, **typed) == typed | dict(csv=None, epochs=3, resume=False, split_seed=None)


def test_parameters_of_a_study_are_read_by_their_types_too(ask):
    given = ask("transfer", photos="5", seeds="5", stage1_data_root="2019", stage1_epochs="5")
    assert given == dict(photos="5", seeds=5, stage1_data_root="2019", stage1_epochs=5)


def test_a_folder_of_digits_is_a_folder():
    """The whole way to the settings, where a number for `data_root` was once not a word."""
    from retinal_tl.settings import Stage2, settings_for

    kind = command._declared("stage2")["data_root"]
    assert settings_for(Stage2, dict(data_root=command.parameter_value("2019", kind))).data_root == "2019"


def test_plan_of_a_study_trains_nothing(ask):
    assert ask("transfer", "--plan", seeds="1") == dict(seeds=1, dry=True)


def test_plan_of_a_run(place, capsys, monkeypatch):
    plans = pytest.importorskip("retinal_tl.plans")
    asked = []
    monkeypatch.setattr(plans, "plan", lambda *arguments: asked.append(arguments) or "what would be trained")
    assert main(["run", "stage2", "--plan", "-p", "lesion", "hemorrhages", "-p", "data_root", "2019"]) == 0
    assert asked == [("stage2", dict(lesion="hemorrhages", data_root="2019"))]
    assert capsys.readouterr().out == "what would be trained\n" and not Path("runs/stage2.ipynb").exists()


@pytest.mark.slow
def test_plan_needs_no_keras(place):
    """The real one, in a process in which neither Keras nor TensorFlow can be imported."""
    pytest.importorskip("retinal_tl.plans")
    script = (
        "import sys; sys.modules.update(dict.fromkeys(['keras', 'tensorflow', 'jax']));"
        "from retinal_tl.command import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["run", "stage1", "--plan", "-p", "output", "planned"]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
    assert done.returncode == 0 and "stage1" in done.stdout.replace(" ", ""), done.stderr
    assert not list(Path("planned").rglob("model.*"))


@pytest.mark.parametrize("name", ["eye.png", "eye.JPG", "deep/eye.tif", "with space.jpeg"])
def test_example_draws_a_photograph_that_the_others_take(place, capsys, name):
    from retinal_tl.images import read_photo

    assert main(["example", name, "--size", "320"]) == 0
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and shlex.split(said)[-5:] == ["retinal_tl", "segment", name, "--output", "found"]
    assert read_photo(name).shape == (320, 320, 3)
    assert main(["segment", name, "--model", "runs/exudates", "--output", "found"]) == 0
    assert read_report(place / "found")[0]["photo"] == name


def test_example_replaces_only_when_told(place, capsys):
    from retinal_tl.images import read_photo

    Path("eye.png").write_text("mine")
    assert main(["example", "eye.png", "--size", "256"]) == 2 and Path("eye.png").read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert main(["example", "eye.png", "--size", "256", "--force"]) == 0
    first = read_photo("eye.png")
    assert main(["example", "other.png", "--size", "256", "--seed", "99"]) == 0
    assert (first != read_photo("other.png")).any() and first.shape == (256, 256, 3)


@pytest.mark.parametrize("words", [["eye.gif"], ["eye"], ["eye.png", "--size", "3"], ["eye.png", "--seed", "-1"]])
def test_examples_that_cannot_be_drawn(place, capsys, words):
    assert main(["example", *words]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("retinal_tl") and errors.count("\n") == 1 and "Traceback" not in errors, errors
    assert not list(place.glob("eye*"))


def write_data(root, masks):
    """A plain data folder: an eye for each mask, which is a share of the photograph's rows, or None for no mask."""
    (root / "masks" / "exudates").mkdir(parents=True)
    for i, share in enumerate(masks):
        photo = write_eye(root / "images" / f"{i}.png", spot=(80 + 9 * i, 100 + 31 * i))
        mask = np.zeros(eye().shape[:2], np.uint8)
        mask[: int((share or 0) * len(mask))] = 255
        if share is not None:
            cv2.imwrite(str(root / "masks" / "exudates" / photo.name), mask)


def test_check_data(place, capsys):
    write_data(place / "good", [0.1, None])
    assert main(["check-data", "--data", "folder", "--data-root", "good", "--no-same-eyes"]) == 0
    said = capsys.readouterr().out
    assert "2 photographs" in said and "exudates: 1 with a mask" in said and "Nothing odd" in said
    write_data(place / "odd", [0.1, 0.8, None])
    cv2.imwrite("odd/masks/exudates/0.png", np.zeros((10, 10), np.uint8))
    (place / "odd" / "images" / "2.png").write_bytes(b"")
    assert main(["check-data", "--data", "folder", "--data-root", "odd", "--no-same-eyes"]) == 1
    odd = [line for line in capsys.readouterr().out.split("\n") if line.startswith("odd: ")]
    assert len(odd) == 3 and all(any(f"{i}.png" in line for line in odd) for i in range(3)), odd


def test_check_data_finds_the_same_eye(place, capsys):
    from retinal_tl.synthetic import phantom

    for name, seed in (("first", 1), ("second", 2), ("other", 3)):
        Path("data/images").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(f"data/images/{name}.png", phantom(seed, size=256).photo[..., ::-1])
    cv2.imwrite("data/images/again.jpg", phantom(1, size=256).photo[..., ::-1])
    assert main(["check-data", "--data", "folder", "--data-root", "data"]) == 1
    odd = [line for line in capsys.readouterr().out.split("\n") if "same eye" in line]
    assert len(odd) == 1 and "first.png" in odd[0] and "again.jpg" in odd[0], odd
