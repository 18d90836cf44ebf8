"""Kill every kind of batch at moments drawn by chance, go on, and compare with an unbroken one, file by file.

    python tools/build/soak.py                       the long form: 84 kills; `make soak`
    python tools/build/soak.py --kills 2 --kinds segment workers --photos 6

The kinds: `segment` with one process, `url` with an output behind a URL of the disk, `workers` with two more (the first
process or one of the two is killed), `classify`, `evaluate`, and `training`, a run of stage 2 on the same phantoms,
which must end with the same weights to the byte. A kill is SIGKILL or SIGTERM. The photographs are small phantoms, and
the networks one line of arithmetic each (`tests/toy_runs.py`). What was seen goes to a file with --output; the exit
status is 1 where a file differs, a temporary one stayed or a traceback was shown.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "figures"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "tests"))
from batch_killed import contents, lines_of

from retinal_tl.images import write_png
from retinal_tl.synthetic import phantom
from toy_runs import write_toy_run

REPOSITORY = Path(__file__).resolve().parent.parent.parent
COMMAND = [sys.executable, "-c", "import sys; from retinal_tl.command import main; sys.exit(main())"]
KINDS = {
    "segment": ["segment", "data/images", "--model", "run", "--format", "png,geojson"],
    "workers": ["segment", "data/images", "--model", "run", "--format", "png,geojson", "--workers", "2"],
    "url": ["segment", "data/images", "--model", "run", "--format", "png,geojson"],
    "classify": ["classify", "data/images", "--model", "any", "--report"],
    "evaluate": ["evaluate", "--model", "run", "--data", "folder", "--data-root", "data", "--drawings", "50"],
}
TRAINING = dict(
    data="folder", data_root="data", lesion="exudates", preset="demo", transfer="scratch", width=0.05, diameter=160,
    patch_size=64, batch_size=4, epochs=16, patience=16, steps_per_epoch=10,
)  # fmt: skip
SIGNALS = ("SIGKILL", "SIGKILL", "SIGTERM")


def write_place(place: Path, photos: int) -> None:
    """Photographs with masks of one lesion, one file that is no photograph, and two toy models."""
    write_toy_run(place / "run", lesions="exudates")
    write_toy_run(place / "any", "classifier")
    for i in range(photos):
        eye = phantom(i, size=160, lesions=("exudates",))
        write_png(place / "data" / "images" / f"{i:03}.png", eye.photo)
        write_png(place / "data" / "masks" / "exudates" / f"{i:03}.png", np.uint8(eye.masks["exudates"]) * 255)


def done_in(output: Path) -> int:
    """How many photographs are done in an output folder, of whatever kind."""
    elsewhere = len(list(output.glob(".retinal_tl/lines/*.json")))
    return elsewhere or lines_of(output) or len(list(output.glob("counts/*/*.json")))


def start(place: Path, kind: str, output: str, *options: str) -> subprocess.Popen:
    """A batch in a process of its own."""
    where = (place / output).as_uri() if kind == "url" else output
    words = [*COMMAND, *KINDS[kind], "--output", where, *options]
    return subprocess.Popen(words, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    """The workers of a batch that is under way."""
    try:
        children = psutil.Process(process.pid).children()
        return [one for one in children if "spawn_main" in " ".join(one.cmdline())]
    except psutil.Error:
        return []


def kill_once(place: Path, kind: str, at: int, chance: random.Random) -> dict:
    """Start, and kill the batch or one of its workers when so many photographs are done; what was seen."""
    name, victim = chance.choice(SIGNALS), "batch"
    process, output = start(place, kind, kind), place / kind
    while done_in(output) < at and process.poll() is None:
        time.sleep(0.005)
    time.sleep(chance.random() * 0.2)
    family = workers_of(process)
    if family and chance.random() < 0.5:
        victim, name = "worker", "SIGKILL"
        chance.choice(family).kill()
    else:
        process.send_signal(getattr(signal, name))
    words = process.communicate()[1].decode()
    _, alive = psutil.wait_procs(family, timeout=30)
    seen = dict(kind=kind, signal=name, victim=victim, status=process.returncode, done=done_in(output))
    return seen | dict(traceback="Traceback" in words, left_alive=len(alive))


def soak(place: Path, kind: str, kills: int, photos: int, chance: random.Random) -> dict:
    """All kills of a kind, and what differs in the end from an unbroken batch of one process."""
    unbroken = kind if kind != "workers" else "segment"
    begun = start(place, unbroken, f"{kind}-whole")
    words = begun.communicate()[1].decode()
    seen = [kill_once(place, kind, at, chance) for at in sorted(chance.choices(range(photos), k=kills))]
    last = start(place, kind, kind)
    words += last.communicate()[1].decode()
    one, other = contents(place / f"{kind}-whole"), contents(place / kind)
    text = lambda data: data.replace(f"{kind}-whole".encode(), kind.encode())
    differ = sorted(name for name in one.keys() | other.keys() if text(one.get(name, b"")) != other.get(name, b""))
    temporary = [path.name for path in (place / kind).rglob("." + "[0-9a-f]" * 16 + "*")]
    statuses = [begun.returncode, last.returncode]
    return dict(kills=seen, files=len(one), statuses=statuses, differ=differ, temporary=temporary,
                traceback="Traceback" in words)  # fmt: skip


def train(place: Path, output: str) -> subprocess.Popen:
    """A training in a process of its own."""
    settings = [word for name, value in (TRAINING | dict(output=output)).items() for word in ("-p", name, str(value))]
    words = [*COMMAND, "run", "stage2", "--no-notebook", *settings]
    return subprocess.Popen(words, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def epochs_in(output: Path) -> int:
    """How many epochs of a run are done, as its history says."""
    return sum(len(path.read_text().splitlines()) - 1 for path in output.glob("*/history.csv"))


def trained(output: Path) -> dict:
    """What a finished run has become: digests of its files, its figures, its thresholds."""
    return {
        path.parent.name: {name: json.loads(path.read_text())[name] for name in ("files", "metrics", "thresholds")}
        for path in output.glob("*/card.json")
    }


def soak_training(place: Path, kills: int, chance: random.Random) -> dict:
    """A training that is killed and goes on, as `soak` has it."""
    begun = train(place, "whole")
    words, seen = begun.communicate()[1].decode(), []
    for at in sorted(chance.choices(range(TRAINING["epochs"]), k=kills)):
        name, process = chance.choice(SIGNALS), train(place, "killed")
        while epochs_in(place / "killed") < at and process.poll() is None:
            time.sleep(0.005)
        time.sleep(chance.random() * (8 if at == 0 else 1))  # it begins with some seconds of imports
        process.send_signal(getattr(signal, name))
        said, done = process.communicate()[1].decode(), epochs_in(place / "killed")
        about = dict(kind="training", signal=name, victim="batch", status=process.returncode, done=done)
        seen.append(about | dict(traceback="Traceback" in said, left_alive=0))
    last = train(place, "killed")
    words += last.communicate()[1].decode()
    one, other = trained(place / "whole"), trained(place / "killed")
    differ = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    temporary = [path.name for path in (place / "killed").rglob("." + "[0-9a-f]" * 16 + "*")]
    return dict(kills=seen, files=sum(len(each["files"]) for each in one.values()), differ=differ, temporary=temporary,
                statuses=[begun.returncode, last.returncode], traceback="Traceback" in words,
                in_vain=not any(each["done"] for each in seen))  # fmt: skip


def broken(found: dict) -> list[str]:
    """What is wrong with the result of a kind, in words."""
    problems = [f"{name} differs" for name in found["differ"]] + [f"{name} stayed" for name in found["temporary"]]
    problems += ["a traceback"] * (found["traceback"] + sum(one["traceback"] for one in found["kills"]))
    problems += ["a worker lived on"] * sum(one["left_alive"] for one in found["kills"])
    if found.get("in_vain"):
        problems.append("no kill came after the first epoch")
    return problems + [f"status {status}" for status in found["statuses"] if status]


def main(arguments: list[str] | None = None) -> int:
    """Do it all, print the summary, and write it where asked; 1 if anything broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=14, help="of each kind (default: %(default)s)")
    parser.add_argument(
        "--kinds", nargs="+", default=[*KINDS, "training"], choices=[*KINDS, "training"], help="default: all"
    )
    parser.add_argument("--photos", type=int, default=30, help="photographs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="a file for the summary, as results/soak.json")
    given = parser.parse_args(arguments)
    chance, found, begun = random.Random(given.seed), {}, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        write_place(Path(folder), given.photos)
        for kind in given.kinds:
            if kind == "training":
                found[kind] = soak_training(Path(folder), given.kills, chance)
            else:
                found[kind] = soak(Path(folder), kind, given.kills, given.photos, chance)
    every = [one for each in found.values() for one in each["kills"]]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True)
    summary = dict(
        command=" ".join(["python tools/build/soak.py", *(sys.argv[1:] if arguments is None else arguments)]),
        commit=commit.stdout.strip(),
        seed=given.seed,
        photographs=given.photos,
        seconds=round(time.monotonic() - begun),
        kills=dict(Counter(f"{one['kind']} {one['victim']} {one['signal']}" for one in every)),
        files_compared={kind: each["files"] for kind, each in found.items()},
        broke={kind: broken(each) for kind, each in found.items() if broken(each)},
        seen=every,
    )
    text = json.dumps(summary, indent=1) + "\n"
    if given.output:
        given.output.write_text(text)
    print(text)
    return int(bool(summary["broke"]))


if __name__ == "__main__":
    sys.exit(main())
