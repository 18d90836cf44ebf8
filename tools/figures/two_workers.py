"""Two workers beside one process: the same results where one of the two is killed twice, and how much faster they are.

    python tools/figures/two_workers.py 1000 10 --output results/two_workers.json

The first number is of small phantoms that a toy network outlines (`tests/toy_runs.py`) once in one process and once by
two workers, of which one is killed at a third and one at two thirds of the way: every file is compared. The second is
of phantoms of eight megapixels, which `segment --quality fast` outlines with one worker on one core, and with two that
share two cores; nothing else should run beside that.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "build"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "tests"))
from batch_killed import contents, lines_of
from soak import workers_of

from retinal_tl.images import write_png
from retinal_tl.synthetic import phantom
from toy_runs import write_toy_run

COMMAND = [sys.executable, "-c", "import sys; from retinal_tl.command import main; sys.exit(main())", "segment"]
LESIONS = ("exudates", "hemorrhages")


def start(place: Path, output: str, *options: str, cores: int = 2) -> subprocess.Popen:
    """A batch in a process of its own, on so many cores."""
    words = [*COMMAND, "eyes", "--output", output, "--format", "png,geojson", *options]
    narrow = lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    return subprocess.Popen(words, cwd=place, stderr=subprocess.PIPE, preexec_fn=narrow)


def killed_twice(place: Path, photos: int) -> dict:
    """What two workers leave of which one is killed twice, beside what one process leaves."""
    write_toy_run(place / "run", lesions=LESIONS)
    for i in range(photos):
        write_png(place / "eyes" / f"{i:05}.png", phantom(i % 50, size=160, lesions=LESIONS).photo)
    alone = start(place, "whole", "--model", "run")
    alone.communicate()  # or it stands still when nobody reads what it says
    process, killed = start(place, "found", "--model", "run", "--workers", "2"), []
    said = ThreadPoolExecutor(1).submit(process.stderr.read)
    for share in (1 / 3, 2 / 3):
        while lines_of(place / "found") < share * photos and process.poll() is None:
            time.sleep(0.01)
        victim = workers_of(process)[0]
        victim.kill()
        killed.append(lines_of(place / "found"))
    words = said.result().decode()
    one, other = contents(place / "whole"), contents(place / "found")
    rows = (place / "found" / "report.csv").read_text().count("\n") - 1
    differ = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    return dict(
        photographs=photos,
        killed_when_done=killed,
        statuses=[alone.returncode, process.wait()],
        files=len(one),
        rows=rows,
        differ=differ,
        traceback="Traceback" in words,
    )


def throughput(place: Path, photos: int) -> dict:
    """Seconds of one worker on one core, and of two on two, start of the workers and all files included."""
    for i in range(photos):
        photo = phantom(i % 8, size=2880, lesions=LESIONS).photo
        (place / "eyes").mkdir(exist_ok=True)
        cv2.imwrite(str(place / "eyes" / f"{i:03}.jpg"), photo[..., ::-1])
    seconds = {}
    for workers in (1, 2):
        begun = time.monotonic()
        start(place, f"by {workers}", "--quality", "fast", "--workers", str(workers), cores=workers).communicate()
        seconds[workers] = round(time.monotonic() - begun, 1)
    return dict(photographs=photos, seconds=seconds, times_as_fast=round(seconds[1] / seconds[2], 2))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("small", type=int, help="how many small phantoms, with two deaths")
    parser.add_argument("large", type=int, help="how many large ones, for the throughput")
    parser.add_argument("--output", type=Path, help="file for what was seen")
    given = parser.parse_args()
    seen = {}
    for name, look, photos in (("killed_twice", killed_twice, given.small), ("throughput", throughput, given.large)):
        if photos:
            with tempfile.TemporaryDirectory() as folder:
                seen[name] = look(Path(folder), photos)
    words = json.dumps(seen, indent=1)
    print(words)
    if given.output:
        given.output.write_text(words + "\n")
    return int(bool(seen.get("killed_twice", {}).get("differ")))


if __name__ == "__main__":
    sys.exit(main())
