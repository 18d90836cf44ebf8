"""Kill a batch again and again, and compare what it leaves with what an unbroken one does, file by file.

    python tools/figures/batch_killed.py 300 10      300 photographs, 10 kills; some minutes on one core

Each kill is one of four signals, drawn by chance, at a moment drawn by chance. Beside some of them a second start into
the same folder is tried. The photographs are small phantoms, and the network is one line of arithmetic
(`tests/toy_runs.py`).
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "tests"))
from retinal_tl.images import write_png
from retinal_tl.synthetic import phantom
from toy_runs import write_toy_run

COMMAND = [sys.executable, "-c", "import sys; from retinal_tl.command import main; sys.exit(main())", "segment"]
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGKILL", "SIGKILL")


def contents(folder: Path) -> dict[str, bytes]:
    """name → bytes of all that is in an output folder but the lock."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def lines_of(output: Path) -> int:
    """How many photographs are in the journal."""
    journal = output / ".retinal_tl" / "journal.jsonl"
    return journal.read_bytes().count(b'\n{"photo"') if journal.exists() else 0


def start(place: Path, output: str) -> subprocess.Popen:
    """A batch in a process of its own, in which Ctrl-C works also where this runs in the background."""
    words = ["eyes", "--model", "run", "--output", output, "--format", "png,geojson"]
    attend = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen([*COMMAND, *words], cwd=place, stderr=subprocess.PIPE, preexec_fn=attend)


def kill_once(place: Path, at: int, name: str, pause: float) -> dict:
    """Start, and kill when so many photographs are done, and a moment later; what was seen."""
    begun, before = time.monotonic(), lines_of(place / "found")
    process = start(place, "found")
    while lines_of(place / "found") < at and process.poll() is None:
        time.sleep(0.005)
    time.sleep(pause)
    second = start(place, "found").communicate()[1].decode() if name == "SIGKILL" else ""
    process.send_signal(getattr(signal, name))
    words = process.communicate()[1].decode()
    left = len([*(place / "found").rglob("." + "[0-9a-f]" * 16 + "*")])
    seen = dict(signal=name, status=process.returncode, done_before=before, done=lines_of(place / "found"))
    seen |= dict(temporary_files=left, seconds=round(time.monotonic() - begun, 1), traceback="Traceback" in words)
    return seen | (dict(second_is_refused="is being written to by process" in second) if second else {})


def main(photos: int, kills: int, seed: int = 0) -> int:
    """Do it all and print what was seen; 1 if a file differs."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_toy_run(place / "run", lesions=("exudates", "hemorrhages"))
        for i in range(photos):
            eye = phantom(i, size=160, lesions=("exudates", "hemorrhages")).photo
            write_png(place / "eyes" / f"patient{i // 2:03}" / f"{('left', 'right')[i % 2]}.png", eye)
        (place / "eyes" / "broken.jpg").write_text("<html>404</html>")
        begun = time.monotonic()
        unbroken = start(place, "whole").wait()
        seconds = round(time.monotonic() - begun, 1)
        at = sorted(chance.sample(range(1, photos), kills))
        seen = [kill_once(place, n, chance.choice(SIGNALS), chance.random() * 0.2) for n in at]
        last = start(place, "found").wait()
        one, other = contents(place / "whole"), contents(place / "found")
    differ = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    figures = dict(photographs=photos, files=len(one), megabytes=round(sum(map(len, one.values())) / 1e6, 1))
    figures |= dict(unbroken_status=unbroken, unbroken_seconds=seconds, last_status=last, kills=seen, differ=differ)
    print(json.dumps(figures, indent=1))
    return int(bool(differ))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=int, help="how many photographs")
    parser.add_argument("kills", type=int, help="how often the batch is killed")
    parser.add_argument("seed", type=int, nargs="?", default=0, help="of the moments (default: 0)")
    given = parser.parse_args()
    sys.exit(main(given.photos, given.kills, given.seed))
