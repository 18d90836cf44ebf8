"""A short part of `make fuzz`: damaged files and files made to harm, in processes with limits; and its own tools."""

import importlib.util
import random
import subprocess
import sys
from pathlib import Path

import pytest

import fuzz
import fuzz_samples
from retinal_tl.core import RetinalError

needs_limits = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and /proc are Linux's")
REPOSITORY = Path(__file__).resolve().parent.parent
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


# ---- small files that took long, or more memory than they should


def test_pages_of_a_tiff_are_not_looked_at_without_end(monkeypatch, tmp_path):
    """A thousand pages of 65,535 notes each, which share their bytes."""
    from PIL.TiffImagePlugin import TiffImageFile

    from retinal_tl.images import photo_size

    one, looked = fuzz_samples.encoded("TIFF"), []
    (tmp_path / "eye.tif").write_bytes(one)
    monkeypatch.setattr(TiffImageFile, "seek", lambda self, page: looked.append(page))
    with pytest.raises(RetinalError, match="holds 30 pages"):
        photo_size(tmp_path / "eye.tif")
    assert max(looked) < 30


def test_a_jpeg_of_many_scans_is_refused(tmp_path):
    from retinal_tl.images import read_photo

    sound = fuzz_samples.encoded("JPEG", progressive=True)
    at = sound.index(b"\xff\xda")
    for times, refused in ((1, False), (300, True)):
        (tmp_path / "eye.jpg").write_bytes(sound[:at] + sound[at:-2] * times + sound[-2:])
        if refused:
            with pytest.raises(RetinalError, match="more scans"):
                read_photo(tmp_path / "eye.jpg")
        else:
            read_photo(tmp_path / "eye.jpg")


def test_a_far_cell_of_a_sheet_does_not_fill_the_sheet(tmp_path):
    import struct

    from retinal_tl.layouts import _xls_lines

    cell = lambda row, column: struct.pack("<HHHH3sB", 4, 9, row, column, bytes(3), 1) + b"x"
    sheet = struct.pack("<HHHH", 9, 4, 2, 16) + cell(0, 0) + cell(16_383, 255) + struct.pack("<HH", 10, 0)
    (tmp_path / "a.xls").write_bytes(sheet)
    lines = _xls_lines(tmp_path / "a.xls")
    assert sum(len(cells) for _, cells in lines) < 1000 and lines[0][1] == ["x"]


def test_many_tall_outlines_are_refused(monkeypatch):
    """Each is narrow, so that its pixels are few, and crosses every row many times."""
    from retinal_tl import shapes

    monkeypatch.setattr(shapes, "_MAX_PAINTED", 1_000_000)
    comb = tuple(float(value) for i in range(200) for value in (i % 2, 0 if i % 2 else 1000))
    with pytest.raises(RetinalError, match="lie one above the other"):
        shapes.Outlines(Path("a.json"), "exudates of a.png", (1000, 4), (comb,) * 3).mask()
    assert (
        shapes.Outlines(Path("a.json"), "exudates of a.png", (1000, 4), ((0.0, 0.0, 2.0, 0.0, 2.0, 9.0),)).mask().any()
    )


def test_arrays_that_claim_what_they_do_not_hold_are_refused(tmp_path):
    from retinal_tl.evaluation import read_histograms
    from retinal_tl.leakage import open_signatures

    for i, files in enumerate(fuzz_samples.npz_bombs()):
        (tmp_path / str(i)).mkdir()
        for name, door in (("histograms.npz", read_histograms), ("signatures.npz", open_signatures)):
            (tmp_path / str(i) / name).write_bytes(files[name])
            with pytest.raises(RetinalError):
                door(tmp_path / str(i) / name)


def test_a_table_larger_than_any_is_not_read(tmp_path):
    from retinal_tl.layouts import read_table

    with open(tmp_path / "labels.csv", "wb") as file:
        file.truncate(1 << 40)  # takes no room on the disk
    with pytest.raises(RetinalError, match="larger than 100 MB"):
        read_table(tmp_path / "labels.csv")


@pytest.mark.skipif(importlib.util.find_spec("atheris") is not None, reason="atheris is installed")
def test_guided_fuzzing_says_what_it_needs():
    script = [sys.executable, str(REPOSITORY / "tools" / "build" / "fuzz_guided.py"), "card"]
    done = subprocess.run(script, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.startswith("atheris is not installed: pip install atheris")
    assert "Traceback" not in done.stderr
