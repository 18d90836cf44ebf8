"""A batch that a reader can rely on: killed it goes on, and no photograph's files are mixed with another's."""

import contextlib
import csv
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from retinal_tl.batch import Batch, do_batch
from retinal_tl.command import main
from retinal_tl.core import RetinalError, write_text
from retinal_tl.images import write_png
from retinal_tl.photos import PLACE, find_photos
from retinal_tl.synthetic import phantom
from toy_runs import write_toy_run

PROCESS = [sys.executable, "-c", "import sys; from retinal_tl.command import main; sys.exit(main())"]
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGKILL")
TEMPORARY = "." + "[0-9a-f]" * 16 + "*"


def write_eyes(folder, count, size=160, first=0):
    """Small phantoms of several patients, each with a left and a right eye of the same names."""
    for i in range(count):
        name = f"patient{(first + i) // 2:03}/{('left', 'right')[i % 2]}.png"
        write_png(Path(folder) / name, phantom(first + i, size=size, lesions=("exudates",)).photo)


def contents(folder):
    """name → bytes of all that is in an output folder but the lock."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != "lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def read_report(folder):
    with open(Path(folder) / "report.csv", newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def segment(*photos, output="found", options=()):
    return main(["segment", "--model", "runs/exudates", "--output", str(output), *options, "--", *map(str, photos)])


def start(output, *options):
    """A batch in a process of its own, in which Ctrl-C works also where the tests run in the background."""
    command = [*PROCESS, "segment", "eyes", "--model", "runs/exudates", "--output", str(output), *options]
    attend = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=attend)


def lines_of(output):
    """How many photographs are in the journal."""
    with contextlib.suppress(OSError):
        return (Path(output) / PLACE / "journal.jsonl").read_bytes().count(b'\n{"photo"')
    return 0


def kill_at(output, number, name, pause=0.0):
    """Start a batch and kill it when that many photographs are done, or a moment later; its exit status and words."""
    process = start(output)
    deadline = time.monotonic() + 120
    while lines_of(output) < number and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(pause)
    process.send_signal(getattr(signal, name))
    errors = process.communicate(timeout=120)[1].decode()
    return process.returncode, errors


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_toy_run("runs/exudates", lesions="exudates")
    write_toy_run("runs/any", "classifier")
    return tmp_path


@pytest.mark.slow
def test_a_batch_that_is_killed_goes_on(place):
    """Twelve photographs, three kills, and every file is as if nothing had happened."""
    write_eyes("eyes", 12)
    Path("eyes/broken.jpg").write_text("<html>")
    assert segment("eyes", output="whole") == 1
    chance = random.Random(7)
    for number, name in zip((2, 5, 8), ("SIGKILL", "SIGTERM", "SIGKILL")):
        status, errors = kill_at("found", number, name, chance.random() * 0.05)
        assert status == (143 if name == "SIGTERM" else -9) and "Traceback" not in errors
        if name == "SIGTERM":
            assert "stopped by SIGTERM" in errors and "the same command goes on" in errors
            assert len(read_report("found")) >= number and "not looked at yet" in Path("found/report.html").read_text()
    assert start("found").wait(120) == 1
    assert contents("found") == contents("whole")
    assert not [*Path("found").rglob(TEMPORARY)]


def test_places_of_all_photographs_are_one_table(place):
    """Also of those that an earlier start has looked at; a folder that holds it can be looked at all the same."""
    for count in (2, 3):
        write_eyes("eyes", count, size=480)
        assert segment("eyes", options=("--format", "places")) == 0
        parts = [path.read_text().splitlines() for path in sorted(Path("found").rglob("*_places.csv"))]
        joined = (Path("found") / "places.csv").read_text().splitlines()
        assert len(parts) == count and joined[0] == parts[0][0] == "photo,lesion,zone,count,area_pixels,area_discs"
        assert joined[1:] == [line for part in parts for line in part[1:]] != []
    (Path("found") / "places.csv").unlink()
    next(Path("found").rglob("*_places.csv")).write_bytes(b"\xff")
    assert segment("eyes", options=("--format", "places")) == 1


def test_what_a_kill_leaves_behind_is_put_right(place):
    write_eyes("eyes", 2)
    assert segment("eyes") == 0
    whole = contents("found")
    journal = Path("found") / PLACE / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-40])  # torn in the last line
    Path("found/patient000/.0123456789abcdef.png").write_bytes(b"half a map")
    Path("found/patient000/right_exudates_mask.png").write_bytes(b"")
    Path("found/patient000/left_overlay.jpg").unlink()
    assert segment("eyes") == 0 and contents("found") == whole


@pytest.mark.slow
def test_only_what_is_missing_or_changed_is_done(place, capsys):
    from retinal_tl import one_photo

    write_eyes("eyes", 4)
    seen = []
    real = one_photo._read_to_segment
    with patch.object(one_photo, "_read_to_segment", lambda path, *rest: seen.append(path.name) or real(path, *rest)):

        def again(*options):
            seen.clear()
            assert segment("eyes", options=options) == 0
            return len(seen)

        assert [again(), again()] == [4, 0]
        write_png("eyes/patient001/left.png", phantom(30, size=160).photo)
        assert [again(), again("--format", "png,geojson"), again()] == [1, 4, 0]
        assert [again("--threshold", "0.4"), again("--threshold", "exudates=0.4"), again()] == [4, 0, 4]
        assert [again("--overwrite"), again()] == [4, 0]
        write_toy_run("runs/exudates", lesions="exudates", limits=("Another card.",))
        assert [again(), again("--csv-dialect", "excel-tab")] == [4, 0]
    assert len(read_report("found")) == 0 or "\t" in Path("found/report.csv").read_text(encoding="utf-8-sig")
    names = sorted(path.name for path in Path("found/patient000").iterdir() if "left" in path.name)
    kinds = ("exudates_mask.png", "exudates_probability.png", "overlay.jpg")
    assert names == sorted([f"left_{kind}" for kind in kinds])  # the outlines of another threshold are gone


@pytest.mark.slow
def test_two_commands_into_one_folder(place):
    """The same names for each patient, one command each: nothing is replaced, and the report grows."""
    write_eyes("patients", 6)
    before = {}
    for patient in sorted(Path("patients").iterdir()):
        assert segment(patient) == 0
        now = contents("found")
        maps = {name: data for name, data in before.items() if "report" not in name and PLACE not in name}
        assert {name: now[name] for name in maps} == maps
        before = now
    rows = read_report("found")
    assert [row["files"] for row in rows] == [
        *("left", "right", "patient001_left", "patient001_right", "patient002_left", "patient002_right"),
    ]
    for row in rows:
        mask = cv2.imread(f"found/{row['files']}_exudates_mask.png", cv2.IMREAD_GRAYSCALE)
        assert int(row["area_pixels"]) == np.count_nonzero(mask)
        assert row["photo"] in Path("found/report.html").read_text()
    assert segment("patients", output="all") == 0
    assert [row["files"] for row in read_report("all")] == [
        f"patient{i:03}/{side}" for i in range(3) for side in ("left", "right")
    ]
    counts = lambda folder: {row["photo"]: row["area_pixels"] for row in read_report(folder)}
    assert counts("all") == counts("found")


def test_folders_are_read_with_what_is_below_them(place, capsys):
    write_eyes("eyes", 4)
    Path("eyes/notes.txt").write_text("Two patients.")
    assert main(["segment", "eyes", "--model", "runs/exudates", "--output", "eyes/found"]) == 0
    assert "1 file left out" in (errors := capsys.readouterr().err) and "notes.txt" in errors
    assert [row["photo"] for row in read_report("eyes/found")] == [
        f"eyes/patient{i:03}/{side}.png" for i in range(2) for side in ("left", "right")
    ]
    assert segment("eyes", options=["--no-recursive"]) == 1 and not Path("found/patient000").exists()
    assert segment("eyes", output="again") == 0  # what lies in eyes/found is no photograph
    assert len(read_report("again")) == 4 and "results of retinal_tl" in capsys.readouterr().err


def test_the_second_of_two_starts_is_told_who_holds_the_folder(place, capsys):
    from retinal_tl.journal import open_journal

    write_eyes("eyes", 1)
    Path("found").mkdir()
    with open_journal(Path("found"), "segment"):
        assert segment("eyes") == 2
        assert f"process {os.getpid()} on " in capsys.readouterr().err and not Path("found/report.csv").exists()
    assert segment("eyes") == 0
    assert main(["classify", "eyes", "--model", "runs/any", "--output", "found"]) == 2
    assert "holds the results of `retinal_tl segment`" in capsys.readouterr().err


@pytest.mark.slow
def test_a_full_disk_ends_the_batch_and_loses_nothing(place, capsys):
    write_eyes("eyes", 6)
    assert segment("eyes", output="whole") == 0
    real, written = os.replace, []

    def replace(source, target):
        written.append(str(target))
        if len([name for name in written if name.endswith("_mask.png")]) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    with patch("retinal_tl.core.os.replace", replace):
        assert segment("eyes") == 1
    errors = capsys.readouterr().err
    assert errors.count("No space left on device") == 2 and "3 to do: the same command goes on" in errors
    assert lines_of("found") == 3 and segment("eyes") == 0 and contents("found") == contents("whole")


def test_the_output_is_tried_before_the_first_photograph(place, capsys):
    write_eyes("eyes", 1)
    assert segment("eyes") == 0
    write_eyes("eyes", 1, first=4)
    real = os.replace

    def replace(source, target):
        if Path(target).name == "report.csv":  # as Windows does where a spreadsheet has it open
            raise PermissionError(13, "Permission denied")
        real(source, target)

    with patch("retinal_tl.core.os.replace", replace):
        assert segment("eyes") == 2
    assert "report.csv could not be written: Permission denied" in capsys.readouterr().err and lines_of("found") == 1
    Path("mine").mkdir()
    Path("mine/report.csv").write_text("my own")
    assert segment("eyes", output="mine") == 2 and Path("mine/report.csv").read_text() == "my own"
    assert "--overwrite" in capsys.readouterr().err and segment("eyes", output="mine", options=["--overwrite"]) == 0


def test_ungradable_is_a_third_answer(place, capsys):
    eye = phantom(1, size=600, lesions=("exudates",)).photo
    write_png("eyes/good.png", eye)
    write_png("eyes/night.png", np.uint8(eye * 0.1))
    status = main(["classify", "eyes", "--model", "runs/any", "--output", "answers", "--report", "--threshold", "0"])
    printed = capsys.readouterr()
    assert status == 0 and "2 photographs: 1 yes, 1 ungradable" in printed.err
    [line] = [line for line in printed.out.split("\n") if "night" in line]
    assert " ungradable " in line and "too dark" in line.lower()
    rows = {Path(row["photo"]).stem: row for row in read_report("answers")}
    assert [rows["good"]["lesion"], rows["night"]["lesion"], rows["night"]["gradable"]] == ["yes", "ungradable", "no"]
    assert rows["night"]["lesion_probability"] and "too dark" in rows["night"]["ungradable_because"]
    page = Path("answers/report.html").read_text()
    assert 'data-ungradable="yes"' in page and "1 ungradable" in page
    again = main(["classify", "eyes", "--model", "runs/any", "--output", "answers", "--report", "--threshold", "0"])
    assert again == 0 and capsys.readouterr().out == printed.out  # a second start prints the whole table
    assert segment("eyes") == 0
    assert {row["photo"]: row["gradable"] for row in read_report("found")}["eyes/night.png"] == "no"


@pytest.mark.parametrize("dialect, cells", [("excel", ","), ("excel-semicolon", ";"), ("excel-tab", "\t")])
def test_a_report_for_every_spreadsheet(place, dialect, cells):
    write_png("eyes/größe, 1.png", phantom(1, size=160, lesions=("exudates",)).photo)
    assert segment("eyes", output=dialect, options=["--csv-dialect", dialect, "--no-report"]) == 0
    data = Path(dialect, "report.csv").read_bytes()
    assert data.startswith(b"\xef\xbb\xbfphoto" + cells.encode())
    [row] = csv.DictReader(data.decode("utf-8-sig").splitlines(), delimiter=cells)
    assert row["photo"] == "eyes/größe, 1.png" and row["threshold"] == ("0,5" if cells == ";" else "0.5")


def test_thresholds_by_lesion(place, capsys):
    write_toy_run("runs/both", lesions=("exudates", "hemorrhages"))
    write_eyes("eyes", 1)
    both = ["segment", "eyes", "--model", "runs/both", "--output", "found", "--no-report"]
    assert main([*both, "--threshold", "exudates=0.4,hemorrhages=0.2"]) == 0
    assert [row["threshold"] for row in read_report("found")] == ["0.4", "0.2"]
    assert "replaces" not in capsys.readouterr().err
    assert main([*both, "--threshold", "0.3"]) == 0
    assert [row["threshold"] for row in read_report("found")] == ["0.3", "0.3"]
    assert "replaces those of the cards, exudates 0.5, hemorrhages 0.5" in capsys.readouterr().err
    curve = dict(threshold=[0, 0.1, 0.8], sensitivity=[1, 0.9, 0.4], precision=[0.01, 0.5, 0.9])
    metrics = {"validation": {lesion: {"curve": curve} for lesion in ("exudates", "hemorrhages")}}
    write_toy_run("runs/both", lesions=("exudates", "hemorrhages"), metrics=metrics)
    assert main([*both, "--sensitivity", "0.9"]) == 0
    assert [row["threshold"] for row in read_report("found")] == ["0.1", "0.1"]
    assert "exudates 0.1 (sensitivity 0.9, precision 0.50)" in capsys.readouterr().err


def test_a_journal_that_lies_leads_nowhere(place):
    """It may come with a folder from somebody else: no file outside of the folder is touched, and no page runs code."""
    write_eyes("eyes", 1)
    Path("precious.txt").write_text("mine")
    Path("found", PLACE).mkdir(parents=True)
    key = "../eyes/patient000/left.png"
    lines = [
        dict(command="segment"),
        dict(names={key: "../../left", "../b.png": "b"}),
        dict(photo=key, rows=[dict(photo="x")], files=["../precious.txt", str(place / "precious.txt"), 3]),
        dict(photo="../b.png", rows=[dict(photo="<script>alert(1)</script>", problem="")], files=[]),
        ["not", "a", "dict"],
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + "{]\n" + "[" * 100_000 + "\n"
    Path("found", PLACE, "journal.jsonl").write_text(text)
    assert segment("eyes") == 0
    assert Path("precious.txt").read_text() == "mine" and Path("found/patient000/left_overlay.jpg").exists()
    assert "<script>alert" not in Path("found/report.html").read_text() and not list(place.glob("left*"))


def bytes_of(task):
    """Work that needs no model: how many bytes a photograph has, in a file."""
    size = len(task.path.read_bytes())
    write_text(Path("found") / f"{task.name}.txt", str(size))
    return [dict(photo=str(task.path), count=size)], None


def do_plain(work=bytes_of, eyes="eyes"):
    """A batch of that work."""
    Path("found").mkdir(exist_ok=True)
    columns, files = ("photo", "count", "problem"), lambda name: [f"{name}.txt"]
    return do_batch(Batch("segment", find_photos([eyes]), columns, {}, Path("found"), files=files), lambda: work)


@pytest.fixture
def three(tmp_path, monkeypatch):
    """Three files that pass for photographs."""
    monkeypatch.chdir(tmp_path)
    Path("eyes").mkdir()
    for name in "abc":
        Path("eyes", f"{name}.png").write_text(name)


def test_a_photograph_that_vanishes_while_it_is_read_costs_itself(three, capsys):
    def vanishing(task):
        if task.path.name == "b.png":
            task.path.unlink()
        return bytes_of(task)

    assert do_plain(vanishing) == 1
    assert "eyes/b.png could not be done: No such file or directory." in capsys.readouterr().err
    assert [row["count"] for row in read_report("found")] == ["1", "", "1"] and not Path("found/b.txt").exists()


def test_want_of_memory_costs_the_photograph_in_hand(three, capsys):
    def large(task):
        return bytes_of(task) if task.path.name != "b.png" else ([0] * 10**17, None)

    assert do_plain(large) == 1 and do_plain() == 0
    assert "eyes/b.png could not be done: there is not enough memory for it." in capsys.readouterr().err
    assert [row["count"] for row in read_report("found")] == ["1", "1", "1"]


def test_a_clock_that_jumps_back_changes_nothing(three):
    for name in "abc":
        os.utime(f"eyes/{name}.png", (4e9, 4e9))  # taken in 2096, as it seems by then
    assert do_plain() == 0
    whole, seen = contents("found"), []
    with patch("time.time", lambda: 1.0), patch("time.time_ns", lambda: 10**9):
        assert do_plain(lambda task: seen.append(task) or bytes_of(task)) == 0
    assert not seen and contents("found") == whole


@pytest.mark.parametrize("what", ["retinal_tl.journal.open", "retinal_tl.core.os.replace"])
def test_an_output_that_is_read_only_is_said_before_the_first_photograph(three, what):
    seen = []
    trouble = patch(what, side_effect=OSError(errno.EROFS, "Read-only file system", "found"), create=True)
    with trouble, pytest.raises(RetinalError, match="found.*Read-only file system"):
        do_plain(lambda task: seen.append(task) or bytes_of(task))
    assert not seen
