"""Photographs and results behind URLs: the same as on a disk, and a batch that is killed goes on from what is there."""

import importlib.util
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_batch import PROCESS, read_report, write_eyes

from retinal_tl.command import main
from retinal_tl.elsewhere import find_elsewhere
from toy_runs import write_toy_run

WORDS = ["--model", "run", "--format", "png,places,coco,labelme"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a toy model and four eyes, an empty memory, and a folder for what is private."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "private").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "private"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    write_toy_run("run", lesions="exudates")
    write_eyes("eyes", 4)
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    yield tmp_path
    assert not [*(tmp_path / "private").glob("retinal_tl*")]  # no copy stays
    fs.store.clear()


def in_memory(folder="/found"):
    """What lies in a folder of the memory: name → bytes."""
    fs = fsspec.filesystem("memory")
    return {name.removeprefix(f"{folder}/"): fs.cat_file(name) for name in fs.find(folder)}


def on_disk(folder):
    """What lies in a folder of the disk: name → bytes."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file() and "lock" not in path.name]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def same_but_names(one, two):
    """Are two outputs alike but for where the photographs are, and the names that follow from that?"""
    assert {name for name in one if "/pages/" not in name} == {name for name in two if "/pages/" not in name}
    pictures = [name for name in one if name.endswith((".png", ".jpg"))]
    assert len(pictures) >= 8 and all(one[name] == two[name] for name in pictures)


def test_from_memory_to_memory_as_on_the_disk(place, capsys):
    """Done once, then nothing; what changes there is done again; what is gone keeps its findings."""
    fs = fsspec.filesystem("memory")
    for name, data in on_disk("eyes").items():
        fs.pipe_file(f"/clinic/{name}", data)
    fs.pipe_file("/clinic/broken.jpg", b"<html>")
    Path("eyes/broken.jpg").write_text("<html>")
    assert main(["segment", "eyes", *WORDS, "--output", "disk"]) == 1
    words = ["segment", "memory:///clinic", *WORDS, "--output", "memory:///found"]
    capsys.readouterr()
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "memory:///clinic/broken.jpg" in said and "see memory:///found/report.html" in said
    assert str(place) not in said
    found = in_memory()
    same_but_names(found, on_disk("disk"))
    assert not any(name.startswith(".retinal_tl/lines") for name in found)
    everything = b"".join(data for name, data in found.items() if not name.endswith((".png", ".jpg")))
    assert b"memory:///clinic/patient000/left.png" in everything and b"private" not in everything
    before = dict(found)
    assert main(words) == 1 and in_memory() == before
    fs.pipe_file("/clinic/broken.jpg", Path("eyes/patient000/left.png").read_bytes())
    fs.rm("/clinic/patient001/left.png")
    capsys.readouterr()
    assert main([*words[:1], "memory:///clinic", "memory:///clinic/patient001/left.png", *words[2:]]) == 1
    assert "left.png is not there. What was found in it earlier is kept" in capsys.readouterr().err
    rows = [json.loads(line) for line in in_memory()[".retinal_tl/journal.jsonl"].splitlines()]
    done = {line["photo"]: line["rows"][0].get("problem") for line in rows if "photo" in line}
    assert len(done) == 5 and not done["memory:///clinic/broken.jpg"]


def test_what_cannot_be_is_one_sentence(place, capsys, monkeypatch):
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/mine/letter.txt", b"mine")
    cases = {
        ("eyes", "memory:///mine"): "no journal says what they are",
        ("memory:///mine", "memory:///mine"): "holds the photographs",
        ("eyes", "nowhere://mine"): "knows no nowhere://",
        ("eyes", "s3://me:secret@mine"): "has a password in it",
    }
    for (photo, output), part in cases.items():
        assert main(["segment", photo, *WORDS, "--output", output]) == 2
        said = capsys.readouterr().err
        assert part in said and said.count("\n") == 1 and "secret" not in said
    assert main(["evaluate", "--data", "folder", "--data-root", "eyes", "--output", "s3://clinic/judged"]) == 2
    assert "to a folder of this machine, and s3://clinic/judged is none" in capsys.readouterr().err
    assert not Path("s3:").exists()
    fs.pipe_file("/held/.retinal_tl/holder.json", json.dumps(dict(process=1, host="x", renewed=time.time())).encode())
    assert main(["segment", "eyes", *WORDS, "--output", "memory:///held"]) == 2
    assert "is being written to by process 1 on x" in capsys.readouterr().err
    assert main(["segment", "https://127.0.0.1:9/eye.png?key=secret", *WORDS, "--output", "web"]) == 1
    said = capsys.readouterr().err
    assert "https://127.0.0.1:9/eye.png" in said and "secret" not in said
    assert not [name for name, data in on_disk("web").items() if b"secret" in data]
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    assert "pip install 'retinal_tl[cluster]'" in find_elsewhere("s3://a/b")[2]


def test_an_output_that_fails_in_the_middle(place, capsys, monkeypatch):
    """The line about a photograph comes after its files; what is not there is done by the next start."""
    fs, puts = fsspec.filesystem("memory"), []
    real = type(fs).put_file

    def put_file(self, local, name, **more):
        puts.append(name)
        if len(puts) == 5:
            raise ConnectionError("secret")
        return real(self, local, name, **more)

    monkeypatch.setattr(type(fs), "put_file", put_file)
    words = ["segment", "eyes", "--model", "run", "--output", "memory:///found"]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "could not be reached: ConnectionError" in said and "the same command goes on" in said
    assert "secret" not in said
    done = [json.loads(line) for line in in_memory()[".retinal_tl/journal.jsonl"].splitlines()]
    done = [line for line in done if line.get("rows")]
    assert 0 < len(done) < 4 and all(name in in_memory() for line in done for name in line["files"])
    assert main(words) == 0 and main(["segment", "eyes", "--model", "run", "--output", "disk"]) == 0
    same_but_names(in_memory(), on_disk("disk"))


@pytest.mark.slow
def test_a_batch_that_is_killed_goes_on_from_a_url(place):
    """Over file://, with two workers, killed after two lines have come; nothing is done twice after that."""
    url = [(place / name).as_uri() for name in ("eyes", "found")]
    words = ["segment", url[0], "--model", "run", "--output", url[1]]
    process = subprocess.Popen([*PROCESS, *words, "--workers", "2"], stderr=subprocess.PIPE)
    lines = lambda: len(list(Path("found/.retinal_tl/lines").glob("*.json")))
    deadline = time.monotonic() + 120
    while lines() < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _, alive = psutil.wait_procs(workers, timeout=60)  # they end by themselves, and may leave a copy until then
    assert not alive
    assert not Path("found/report.csv").exists() and Path("found/.retinal_tl/holder.json").exists()
    again = subprocess.run([*PROCESS, *words], capture_output=True, text=True)
    assert again.returncode == 0 and "4 photographs: 4 done" in again.stderr, again.stderr
    assert len(read_report("found")) == 4 and not lines() and not Path("found/.retinal_tl/holder.json").exists()
    assert main(["segment", "eyes", "--model", "run", "--output", "disk"]) == 0
    same_but_names(on_disk("found"), on_disk("disk"))


@pytest.mark.slow
@pytest.mark.skipif(
    not importlib.util.find_spec("aiohttp"), reason="nothing reads http here: pip install 'fsspec[http]'"
)
def test_files_of_a_web_server(place, capsys):
    """Two files of a server that knows no ranges, with signatures; one is not there."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        start = f"http://127.0.0.1:{server.server_port}/eyes/patient000"
        names = [f"{start}/{name}.png?key=secret" for name in ("left", "right", "none")]
        assert main(["segment", *names, "--model", "run", "--output", "found"]) == 1
        said = capsys.readouterr().err
        lines = [line for line in said.splitlines() if "retinal_tl:" in line]
        assert f"{start}/none.png is not there" in said and "2 done" in lines[-1] and "1 failed" in lines[-1]
    finally:
        server.shutdown()
        server.server_close()
    assert not [name for name, data in on_disk("found").items() if b"secret" in data]
    assert main(["segment", "eyes/patient000", "--model", "run", "--output", "disk"]) == 0
    pictures = {name: data for name, data in on_disk("found").items() if name.endswith((".png", ".jpg"))}
    assert len(pictures) == 6 and pictures.items() <= on_disk("disk").items()


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("moto", "s3fs", "flask"))),
    reason="no server stands for S3 here: pip install 'moto[server]' s3fs",
)
def test_s3_by_a_server_of_moto(place, capsys, monkeypatch):
    """A bucket is read and written; a second start at the same moment is refused by S3 itself."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in (("ENDPOINT_URL", f"http://{host}:{port}"), ("ACCESS_KEY_ID", "AKIDSHOWN"),
                            ("SECRET_ACCESS_KEY", "verysecret"), ("DEFAULT_REGION", "us-east-1")):  # fmt: skip
            monkeypatch.setenv(f"AWS_{name}", value)
        fs = fsspec.filesystem("s3")
        fs.mkdir("clinic")
        for name, data in on_disk("eyes").items():
            fs.pipe_file(f"clinic/eyes/{name}", data)
        words = ["segment", "s3://clinic/eyes", "--model", "run", "--output", "s3://clinic/found"]
        assert main(words) == 0
        assert main(["segment", "eyes", "--model", "run", "--output", "disk"]) == 0
        fs.invalidate_cache()
        there = {name.removeprefix("clinic/found/"): fs.cat_file(name) for name in fs.find("clinic/found")}
        same_but_names(there, on_disk("disk"))
        picture = next(f"clinic/found/{name}" for name in there if name.endswith("_overlay.jpg"))
        written = fs.info(picture)["LastModified"]
        time.sleep(1)
        assert main(words) == 0
        fs.invalidate_cache()
        assert fs.info(picture)["LastModified"] == written  # nothing was done again
        said = capsys.readouterr()
        assert "4 photographs: 4 done" in said.err and "s3://clinic/found/report.html" in said.err
        everything = b"".join(there.values()) + (said.err + said.out).encode()
        assert b"verysecret" not in everything and b"AKIDSHOWN" not in everything
        fs.pipe_file("clinic/one", b"1", mode="create")
        with pytest.raises(FileExistsError):
            fs.pipe_file("clinic/one", b"2", mode="create")
        assert main(["segment", "eyes", "--model", "run", "--output", "s3://nowhere/found"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    finally:
        server.stop()
