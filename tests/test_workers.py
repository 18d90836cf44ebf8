"""More than one process does what one does, file for file, and whoever dies costs what it had in hand."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import soak
from soak import contents, lines_of
from test_batch import PROCESS, TEMPORARY, read_report, write_eyes

from retinal_tl import batch
from retinal_tl.batch import Batch, do_batch
from retinal_tl.command import main
from retinal_tl.core import RetinalError, write_text
from retinal_tl.photos import find_photos
from retinal_tl.workers import Crew, in_workers
from toy_runs import write_toy_run

HERE = str(Path(__file__).parent)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([HERE, os.environ.get("PYTHONPATH", "")]))
    return tmp_path


def prepare(folder):
    """Work for a worker: counts bytes, kills its process where a file says so, and notes who was at it."""

    def work(task):
        with open(folder / "seen", "a") as seen:
            seen.write(f"{task.path.name} {os.getpid()}\n")
        text = task.path.read_text()
        if text == "kill" or (text == "kill once" and not (folder / "killed").exists()):
            if text == "kill once":
                (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        write_text(folder / f"{task.name}.txt", str(len(text)))
        return [dict(photo=str(task.path), count=len(text))], None

    return work


def refuse():
    """Work that cannot be prepared, as where a model is missing."""
    raise RetinalError("runs/exudates is not there.")


def a_batch(output, crew=None):
    """A batch of the files in `eyes`."""
    Path(output).mkdir(exist_ok=True)
    columns, files = ("photo", "count", "problem"), lambda name: [f"{name}.txt"]
    return Batch("segment", find_photos(["eyes"]), columns, {}, Path(output), files=files, crew=crew)


def seen_by(output):
    """Name → the processes that had it in hand."""
    names: dict = {}
    for line in Path(output, "seen").read_text().splitlines():
        names.setdefault(line.split()[0], []).append(line.split()[1])
    return names


@pytest.mark.slow
def test_a_photograph_that_kills_is_set_aside_and_no_other_one(place, capsys):
    """One kills every worker, one the first that has it; the rest is done, and once."""
    Path("eyes").mkdir()
    words = {"a": "a", "b": "kill once", "c": "ccc", "d": "kill", "e": "e", "f": "ff"}
    for name, text in words.items():
        Path("eyes", f"{name}.png").write_text(text)
    assert do_batch(a_batch("found", Crew(2)), partial(prepare, place / "found")) == 1
    errors = capsys.readouterr().err
    assert "d.png could not be done: two processes ended while they did it" in errors and "5 done, 1 failed" in errors
    rows = {Path(row["photo"]).stem: row for row in read_report("found")}
    assert {name: row["count"] for name, row in rows.items()} == {
        **{name: str(len(text)) for name, text in words.items()},
        "d": "",
    }
    seen = seen_by("found")
    # a photograph is done once more where its worker dies of the next one before its answer has come
    often = {name: len(who) for name, who in seen.items()}
    assert sorted(often) == [f"{name}.png" for name in words] and often["b.png"] >= 2 and often["d.png"] >= 2, often
    assert sum(often.values()) <= len(words) + 6, often
    assert not psutil.Process().children(recursive=True) or all(
        "spawn_main" not in " ".join(child.cmdline()) for child in psutil.Process().children()
    )
    Path("eyes/d.png").write_text("well")  # the next start tries it again, and only it
    Path("found/seen").unlink()
    assert do_batch(a_batch("found"), partial(prepare, place / "found")) == 0 and list(seen_by("found")) == ["d.png"]


def test_what_cannot_be_sent_ends_the_batch(place, capsys):
    with pytest.raises(RetinalError, match="No Dask scheduler answers at nowhere"):
        list(in_workers(Crew(scheduler="nowhere"), refuse, [1]))


@pytest.mark.slow
def test_the_same_files_from_any_number_of_processes(place, capsys):
    """A batch begun by one process, gone on with by two whose parent is killed, and ended by one worker."""
    write_toy_run("runs/exudates", lesions="exudates")
    write_eyes("eyes", 10)
    Path("eyes/broken.jpg").write_text("<html>")
    words = ["segment", "eyes", "--model", "runs/exudates", "--format", "png,coco", "--output"]
    assert main([*words, "whole"]) == 1
    for more, kill in ((), 3), (("--workers", "2"), 6):
        process = subprocess.Popen([*PROCESS, *words, "found", *more], stderr=subprocess.PIPE)
        deadline = time.monotonic() + 120
        while lines_of(Path("found")) < kill and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.communicate()
        psutil.wait_procs(workers, 30)
        assert not [one for one in workers if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert main([*words, "found", "--workers", "1"]) == 1
    assert contents(Path("found")) == contents(Path("whole")) and not [*Path("found").rglob(TEMPORARY)]
    assert "11 photographs: 10 done" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_of_a_scheduler(place, capsys):
    """They stand in another folder; where they have other models, they say so; where they are gone, it is said."""
    from distributed import LocalCluster

    write_toy_run("runs/any", "classifier")
    write_eyes("eyes", 3)
    words = ["classify", str(place / "eyes"), "--model", "runs/any", "--report"]
    assert main([*words, "--output", "whole"]) == 0
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        address = cluster.scheduler_address
        assert main([*words, "--output", "found", "--scheduler", address]) == 0
        assert contents(Path("found")) == contents(Path("whole"))
        with pytest.raises(RetinalError, match="runs/exudates is not there"):
            list(in_workers(Crew(scheduler=address), refuse, [1]))


def test_without_dask_a_sentence_says_what_to_install(place, capsys, monkeypatch):
    write_toy_run("runs/any", "classifier")
    write_eyes("eyes", 1)
    real = batch.__spec__ and __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "distributed" else real(name))
    assert main(["classify", "eyes", "--model", "runs/any", "--workers", "2"]) == 2
    assert "distributed: pip install 'retinal_tl[cluster]'" in capsys.readouterr().err
    for number in ("0", "-1", "two", "1001"):
        assert main(["classify", "eyes", "--workers", number]) == 2
        assert "give a number of processes" in capsys.readouterr().err


def test_what_another_batch_writes_is_not_replaced(place):
    """A worker that has lost its batch, and finishes late, writes nothing."""
    holder = place / "lock.json"
    holder.write_bytes(b"first")
    task = batch.Task(Path("eye.png"), "eye.png", "eye", 0, holder, b"first")
    task.check()
    holder.write_bytes(b"second")
    with pytest.raises(RetinalError, match="the batch it belongs to has ended"):
        task.check()
    holder.unlink()
    with pytest.raises(RetinalError):
        task.check()
    batch.Task(Path("eye.png"), "eye.png", "eye", 0).check()


@pytest.mark.slow
def test_help_and_one_process_bring_no_dask():
    code = "import sys, retinal_tl, retinal_tl.command as c; c.main(['segment', '--help']); "
    code += "assert not {'dask', 'distributed', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.slow
def test_a_model_is_judged_alike_by_any_number_of_processes(tmp_path, capsys, monkeypatch):
    """The same answer to the byte but for what fails, which has its sentence; relative names are found by others."""
    monkeypatch.chdir(tmp_path)
    soak.write_place(tmp_path, 6)
    (tmp_path / "data" / "images" / "002.png").write_bytes(b"")
    words = ["evaluate", "--model", "run", "--data", "folder", "--data-root", "data", "--drawings", "20", "--output"]
    said = []
    for output, more in (("first", ()), ("second", ("--workers", "2"))):
        assert main([*words, output, *more]) == 1
        heard = capsys.readouterr()
        said.append((heard.out + heard.err).replace(output, ""))
    assert "002.png is empty" in said[0] and sorted(said[0].splitlines()) == sorted(said[1].splitlines())
    for name in ("metrics.json", "photographs.csv"):
        one, two = ((tmp_path / output / name).read_text() for output in ("first", "second"))
        assert one == two
    assert len({*(tmp_path / "first" / "counts").rglob("*.json")}) == 5


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0.0, 0.5])
def test_a_worker_that_ends_while_it_begins(tmp_path, moment):
    """Before it has said that it is there, or while it is told its share of the cores: another one takes its place."""
    soak.write_place(tmp_path, 4)
    process = soak.start(tmp_path, "workers", "found")
    while not (begun := soak.workers_of(process)) and process.poll() is None:
        time.sleep(0.005)
    time.sleep(moment)
    begun[0].kill()
    errors = process.communicate(timeout=120)[1].decode()
    assert (process.returncode, soak.done_in(tmp_path / "found")) == (0, 4), errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_short_soak(capsys):
    """`make soak` in its short form; the long one kills every kind of batch."""
    assert soak.main(["--kills", "2", "--kinds", "segment", "evaluate", "--photos", "4", "--seed", "3"]) == 0
    assert '"broke": {}' in capsys.readouterr().out


def test_a_soak_says_what_broke():
    kill = dict(traceback=False, left_alive=0)
    whole = dict(kills=[kill], statuses=[0, 0], differ=[], temporary=[], traceback=False)
    assert soak.broken(whole) == []
    assert soak.broken(dict(whole, in_vain=True)) == ["no kill came after the first epoch"]
    odd = dict(
        whole,
        differ=["a.png"],
        temporary=[".0123"],
        statuses=[0, 1],
        kills=[dict(traceback=True, left_alive=1)],
    )
    assert soak.broken(odd) == ["a.png differs", ".0123 stayed", "a traceback", "a worker lived on", "status 1"]
