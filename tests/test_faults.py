"""What really happens to a machine: a disk that is full, a file that may not grow, memory that ends."""

import json
import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import cv2
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_batch import PROCESS, TEMPORARY, contents, read_report, write_eyes

from retinal_tl.command import main
from toy_runs import write_toy_run

pytestmark = pytest.mark.slow
WORDS = ["segment", "eyes", "--model", "run", "--output"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Four eyes, a toy model, and what it finds where nothing happens, in `whole`; the tests stand there."""
    place, before = tmp_path_factory.mktemp("faults"), os.getcwd()
    os.chdir(place)
    write_toy_run("run", lesions="exudates")
    write_eyes("eyes", 4, size=600)
    assert main([*WORDS, "whole"]) == 0
    yield place
    os.chdir(before)


def limited(words: list[str], **limits: int) -> tuple[int, list[str]]:
    """The exit status of a command in a process with one core and these limits, and the lines that it says."""

    def limit():
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        for name, value in limits.items():
            number = getattr(resource, f"RLIMIT_{name}")
            resource.setrlimit(number, (value, resource.getrlimit(number)[1]))

    environment = os.environ | dict(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    done = subprocess.run([*PROCESS, *words], capture_output=True, text=True, preexec_fn=limit, env=environment)
    return done.returncode, done.stderr.splitlines()


def check_whole(folder: Path) -> None:
    """No file is half of one, and none stays that was being written."""
    assert not [*folder.rglob(TEMPORARY)]
    for path in folder.rglob("*"):
        if path.suffix in (".png", ".jpg"):
            assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED) is not None, path
        if path.suffix in (".json", ".jsonl"):
            assert all(json.loads(line) for line in path.read_text().splitlines()), path


@contextmanager
def small_disk(folder: Path, kilobytes: int):
    """A disk of this size, in memory, mounted there."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if not sys.platform.startswith("linux") or os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here, which takes Linux and its first user")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("kilobytes", [100, 300])
def test_a_disk_that_is_full(place, capsys, kilobytes):
    """Full at the first map, or at a page; with more room the same command ends it."""
    with small_disk(place / f"disk{kilobytes}", kilobytes) as disk:
        assert main([*WORDS, disk.name]) == 1
        said = capsys.readouterr().err.splitlines()
        assert "No space left on device" in said[-1] and "the same command goes on with them" in said[-1]
        assert len(said) <= 10 and "Traceback" not in "".join(said)
        check_whole(disk)
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        assert main([*WORDS, disk.name]) == 0
        assert contents(disk) == contents(place / "whole")


def test_a_file_that_may_not_grow(place):
    """As on a medium that holds no large files: the photographs whose maps are too large fail, each with a sentence."""
    status, said = limited([*WORDS, "found"], FSIZE=60_000)
    assert status == 1 and "1 done, 3 failed" in said[-1]
    assert sum("_probability.png could not be written: File too large" in line for line in said) == 3
    check_whole(place / "found")
    assert main([*WORDS, "found"]) == 0 and contents(place / "found") == contents(place / "whole")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux keeps a process to so many bytes")
def test_memory_that_ends(place):
    """A photograph too large for the memory costs only itself, and is tried again."""
    cv2.imwrite("large.jpg", cv2.resize(cv2.imread("eyes/patient000/left.png"), (7000, 7000)))
    status, said = limited(["segment", "large.jpg", *WORDS[1:], "short"], AS=1000 << 20)
    assert status == 1 and "4 done, 1 failed" in said[-1], said
    assert [line for line in said if "large.jpg" in line and "memory" in line] and "Traceback" not in "".join(said)
    check_whole(place / "short")
    problems = {Path(row["photo"]).name: row["problem"] for row in read_report("short")}
    assert "memory" in problems["large.jpg"] and not problems["left.png"]
