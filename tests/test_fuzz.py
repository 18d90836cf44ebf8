"""A short part of `make fuzz`: damaged files and files made to harm, in processes with limits; and its own tools."""

import random
import sys
from pathlib import Path

import pytest

import fuzz
import fuzz_samples
from retinal_tl.core import RetinalError

needs_limits = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and /proc are Linux's")
QUICK = [kind for kind in fuzz.KINDS if kind not in ("keras", "names", "dicom")]


@needs_limits
@pytest.mark.slow
def test_some_cases_of_each_kind_end_in_a_sentence():
    found = fuzz.fuzz(150, 1, QUICK, say=lambda line: None)
    assert not found["findings"], found["findings"]
    assert found["cases"] == found["fine"] + found["refused"] and found["fine"] > 20 < found["refused"]


def test_a_case_is_the_same_again_and_each_seed_another():
    for kind in ("jpeg", "csv", "card"):
        first = [fuzz.case(kind, number, 0) for number in range(20, 40)]
        assert first == [fuzz.case(kind, number, 0) for number in range(20, 40)]
        assert first != [fuzz.case(kind, number, 1) for number in range(20, 40)]
        assert first != [fuzz.sound(kind)[0]] * 20


def test_zeros_are_what_they_claim():
    import zlib

    assert zlib.decompress(fuzz_samples.zeros(3)) == bytes(3_000_000)


def run_one(monkeypatch, place, door):
    """What comes of a case whose door is `door`."""
    kind = fuzz.Kind(lambda: [{"a": b"a"}], door, 1)
    monkeypatch.setitem(fuzz.KINDS, "own", kind)
    for cached in (fuzz.sound, fuzz.bombs):
        cached.cache_clear()
    seen: list = []
    fuzz.run_kind("own", 2, 0, lambda number, result: seen.append(result[:2]))
    return seen


def refuse(folder, output):
    raise RetinalError("The file is odd.")


def break_down(folder, output):
    raise KeyError("a")


def crash(folder, output):
    import ctypes

    if (folder / "a").read_bytes() != b"a":
        ctypes.string_at(0)


def go_on(folder, output):
    while (folder / "a").read_bytes() != b"a":
        pass


def write_elsewhere(folder, output):
    (folder.parent / "outside" / "new").write_text("x")


def call_a_command(folder, output):
    import subprocess

    subprocess.run(["true"])


def take_memory(folder, output):
    if (folder / "a").read_bytes() != b"a":
        bytearray(fuzz.MEMORY + (1 << 28))


@needs_limits
@pytest.mark.parametrize(
    "door, what",
    [
        (refuse, "The file is odd."),
        (break_down, "KeyError"),
        (crash, "ended with -11"),
        (go_on, "computed for"),
        (write_elsewhere, "outside"),
        (call_a_command, "subprocess.Popen"),
        (take_memory, "MemoryError"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_counts_as_a_finding(monkeypatch, tmp_path, door, what):
    monkeypatch.setattr(fuzz, "SECONDS", 0.5)
    seen = run_one(monkeypatch, tmp_path, door)
    assert len(seen) == 2
    if door is refuse:
        assert seen == [("refused", what)] * 2
    else:
        assert any(result == "finding" and what in said for result, said in seen), seen


def test_blows_change_files_and_survive_empty_ones():
    chance = random.Random(0)
    assert fuzz.strike(b"", chance) == b""
    assert len({fuzz.strike(bytes(range(200)), chance) for _ in range(50)}) > 40


# ---- what `make fuzz` has found


def write(folder: Path, files: fuzz_samples.Sample) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder
