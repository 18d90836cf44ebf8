"""Neighbors in a batch overlap, and nothing else changes: order, rows and files, and what a fault or a stop costs."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from retinal_tl.command import main
from retinal_tl.core import RetinalError
from retinal_tl.images import write_png
from retinal_tl.photos import PLACE
from retinal_tl.synthetic import phantom
from toy_runs import write_toy_run

PROCESS = [sys.executable, "-c", "import sys; from retinal_tl.command import main; sys.exit(main())"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with six eyes and two toy models."""
    monkeypatch.chdir(tmp_path)
    write_toy_run("runs/exudates", lesions="exudates")
    write_toy_run("runs/any", "classifier", threshold=0.25)
    for i in range(6):
        write_png(f"eyes/{i}.png", phantom(i, size=160, lesions=("exudates",)).photo)
    return tmp_path


def files_of(folder):
    """name → bytes of what was written for the photographs and of the table."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file() and PLACE not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def lines_of(folder):
    """Photographs that the journal has, in its order."""
    lines = map(json.loads, (Path(folder) / PLACE / "journal.jsonl").read_text().splitlines())
    return [Path(line["photo"]).name for line in lines if "photo" in line]


def segment(output, *photos):
    return main(["segment", *(photos or ["eyes"]), "--model", "runs/exudates", "--output", output])


def test_the_same_files_and_rows_as_one_after_the_other(place):
    from retinal_tl import batch

    assert segment("found") == 0
    with patch.object(batch, "overlapped", lambda steps, tasks: ((task, steps(task)) for task in tasks)):
        assert segment("slowly") == 0
    assert files_of("found") == files_of("slowly") and lines_of("found") == lines_of("slowly")


@pytest.mark.parametrize("step", ["segment_levels", "write_findings", "open_photo"])
def test_a_fault_in_any_step_is_the_row_of_its_photograph(place, capsys, step):
    from retinal_tl import findings

    real, count = getattr(findings, step), []

    def third_fails(*given, **more):
        count.append(1)
        if len(count) == 3:
            raise RetinalError("This one is broken.")
        return real(*given, **more)

    with patch.object(findings, step, third_fails):
        assert segment("found") == 1
    said = capsys.readouterr().err
    assert said.count("This one is broken.") == 1 and "5 done, " in said and ", 1 failed" in said
    assert lines_of("found") == [f"{i}.png" for i in range(6)]
    assert sorted(path.name[0] for path in Path("found").glob("*_overlay.jpg")) == list("01345")


def test_what_is_known_is_told_in_its_turn(place, capsys):
    classify = ["classify", "eyes", "--model", "runs/any", "--output", "answers"]
    assert main([*classify[:1], "eyes/1.png", "eyes/4.png", *classify[2:]]) == 0
    capsys.readouterr()
    assert main(classify) == 0
    told = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert told == [f"eyes/{i}.png" for i in range(6)]  # those that were read ahead do not let others pass


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGKILL"])
def test_a_stop_loses_what_is_in_hand_and_no_more(place, name):
    for i in range(6, 60):
        Path(f"eyes/{i:02}.png").symlink_to("0.png")
    command = [*PROCESS, "segment", "eyes", "--model", "runs/exudates", "--output", "found"]
    attend = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=attend)
    until = time.monotonic() + 120
    while len(list(Path("found").glob("*_overlay.jpg"))) < 8 and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(getattr(signal, name))
    process.communicate(timeout=60)
    written = {path.name.partition("_")[0] for path in Path("found").glob("*_overlay.jpg")}
    known = {Path(line).stem for line in lines_of("found")}
    assert known <= written and len(written - known) <= 2
    assert segment("found") == 0  # and it goes on
    assert len(list(Path("found").glob("*_overlay.jpg"))) == 60
