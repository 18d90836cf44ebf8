"""The app as people and programs meet it: in a browser, through its addresses, and with a network asked only once."""

import argparse
import csv
import os
import re
import signal
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.request import ProxyHandler, build_opener

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from browser import CHROMIUM, Browser
from dicom_files import SECRET, add_identity, photo_dataset, write_dicom
from retinal_tl.app import add_app, build_app, launch_app, look_at, page_picture
from retinal_tl.command import main
from retinal_tl.core import RetinalError
from retinal_tl.findings import masks_at
from retinal_tl.images import read_photo, write_png
from retinal_tl.inference import load_run
from retinal_tl.synthetic import phantom
from toy_runs import write_toy_run

pytestmark = pytest.mark.slow

LESIONS = ("exudates", "hemorrhages")
SCRIPT = (
    "import argparse, sys; from retinal_tl.app import add_app\n"
    "parser = argparse.ArgumentParser(); add_app(parser.add_subparsers())\n"
    "arguments = parser.parse_args(); sys.exit(arguments.work(arguments))"
)
FETCH = build_opener(ProxyHandler({})).open


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two runs, a phantom, something that is none, and what the command makes of the phantom."""
    place = tmp_path_factory.mktemp("app")
    for lesion, threshold in zip(LESIONS, (0.43217, 0.5)):
        write_toy_run(place / lesion, lesions=lesion, threshold=threshold, limits=("<b>Toy</b>.",))
    write_png(place / "an eye.png", phantom(5, 512, LESIONS).photo)
    (place / "page.jpg").write_text("<html>404</html>")
    models = [text for lesion in LESIONS for text in ("--model", str(place / lesion))]
    assert main(["segment", str(place / "an eye.png"), *models, "--output", str(place / "maps")]) == 0
    return place


def report(place):
    """The rows of the command's report by lesion."""
    with open(place / "maps" / "report.csv", newline="", encoding="utf-8-sig") as file:
        return {row["lesion"]: row for row in csv.DictReader(file)}


def assert_same_files(archive, place):
    """A ZIP file holds the maps and masks that the command wrote, and its numbers."""
    with zipfile.ZipFile(archive) as archive:
        for lesion in LESIONS:
            for kind in ("mask", "probability"):
                name = f"an eye_{lesion}_{kind}.png"
                found = cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_UNCHANGED)
                assert np.array_equal(found, cv2.imread(str(place / "maps" / name), cv2.IMREAD_UNCHANGED)), name
            assert (found > 0).any()
        assert "an eye_overlay.jpg" in archive.namelist()
        rows = list(csv.DictReader(archive.read("report.csv").decode().splitlines()))
    for row in rows:
        assert {
            key: report(place)[row["lesion"]][key] for key in ("area_pixels", "count", "share_of_field", "threshold")
        } == {key: row[key] for key in ("area_pixels", "count", "share_of_field", "threshold")}


def numbers(table):
    """Lesion → spots and pixels, from the page's table."""
    cells = re.findall(r"data-lesion=['\"](\w+)['\"].*?</td><td>([\d,]+)</td><td>([\d,]+)</td>", table)
    return {lesion: tuple(int(number.replace(",", "")) for number in pair) for lesion, *pair in cells}


def expected(place, limits):
    """The same from the maps that the command wrote."""
    from retinal_tl.metrics import count_lesions, quantize

    masks = {
        lesion: cv2.imread(str(place / "maps" / f"an eye_{lesion}_probability.png"), cv2.IMREAD_UNCHANGED)
        >= quantize(limit)
        for lesion, limit in limits.items()
    }
    return {lesion: (count_lesions(mask), np.count_nonzero(mask)) for lesion, mask in masks.items()}


# ---- without Gradio


def test_masks_are_those_of_the_command(place):
    seen = look_at(place / "an eye.png", [load_run(place / lesion) for lesion in LESIONS])
    for lesion, mask in masks_at(seen, seen.thresholds).items():
        assert np.array_equal(mask, read_photo(place / "maps" / f"an eye_{lesion}_mask.png")[..., 0] == 255)


def test_missing_extra_is_one_sentence(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(RetinalError, match=r"pip install 'retinal_tl\[app\]'") as caught:
        build_app([place / "exudates"])
    assert "\n" not in str(caught.value)


def test_wrong_models_are_refused_before_anything_is_served(place):
    pytest.importorskip("gradio")
    write_toy_run(place / "any", "classifier")
    with pytest.raises(RetinalError, match="is a classifier"):
        build_app([place / "any"])
    with pytest.raises(RetinalError, match="both outline exudates"):
        build_app([load_run(place / "exudates"), load_run(place / "exudates")])


# ---- through its addresses


class Counting:
    """A session that counts how often it is asked."""

    def __init__(self, session):
        self.session, self.calls = session, 0

    def __getattr__(self, name):
        return getattr(self.session, name)

    def run(self, *arguments):
        self.calls += 1
        return self.session.run(*arguments)


@pytest.fixture(scope="module")
def served(place, tmp_path_factory):
    """The app in this process, its sessions counted, and a client."""
    pytest.importorskip("gradio")
    scratch = tmp_path_factory.mktemp("gradio")
    before = os.environ.copy()
    os.environ["GRADIO_TEMP_DIR"] = str(scratch)
    runs = [load_run(place / lesion) for lesion in LESIONS]
    runs = [replace(run, session=Counting(run.session)) for run in runs]
    warn = lambda photo, field: ["It is <i>odd</i>."] if photo.shape == (300, 300, 3) else []
    app = build_app(runs, warn)
    address = launch_app(app)
    from gradio_client import Client

    client = Client(
        address, verbose=False, analytics_enabled=False, download_files=str(tmp_path_factory.mktemp("client"))
    )
    yield SimpleNamespace(app=app, address=address, client=client, calls=lambda: sum(run.session.calls for run in runs))
    app.close()
    os.environ.clear()
    os.environ.update(before)


def look(served, path, shown=LESIONS, opacity=0.5, limits=(0.432, 0.5)):
    from gradio_client import handle_file

    return served.client.predict(handle_file(path), list(shown), opacity, *limits, api_name="/segment")


def test_upload_shows_what_the_command_finds(place, served):
    said, picture, table, _ = look(served, place / "an eye.png")
    assert said == "" and served.calls() > 0
    assert numbers(table) == {
        lesion: (int(row["count"]), int(row["area_pixels"])) for lesion, row in report(place).items()
    }
    assert "0.4322" in table  # the card's threshold, not the slider's step
    seen = look_at(place / "an eye.png", [load_run(place / lesion) for lesion in LESIONS])
    right = page_picture(seen, masks_at(seen, seen.thresholds), LESIONS)
    assert (
        np.abs(read_photo(picture).astype(int) - right).mean() < 4 < np.abs(right.astype(int) - seen.photo).mean() + 4
    )


def test_sliders_and_layers_do_not_ask_the_network_again(place, served):
    look(served, place / "an eye.png")
    calls = served.calls()
    for limits in ((0.9, 0.2), (0.1, 0.99)):
        _, table, _ = served.client.predict(list(LESIONS), 0.5, *limits, api_name="/show")
        assert numbers(table) == expected(place, dict(zip(LESIONS, limits)))
    bare, table, _ = served.client.predict([], 0.5, 0.432, 0.5, api_name="/show")
    assert np.abs(read_photo(bare).astype(int) - phantom(5, 512, LESIONS).photo).mean() < 4
    assert numbers(table) == expected(place, dict(exudates=0.43217, hemorrhages=0.5))
    assert served.calls() == calls


def test_archive_is_what_the_command_writes(place, served):
    look(served, place / "an eye.png")
    archive, _ = served.client.predict(list(LESIONS), 0.5, 0.432, 0.5, api_name="/archive")
    assert_same_files(archive["value"] if isinstance(archive, dict) else archive, place)


def test_a_bad_photograph_costs_one_sentence(place, served):
    said, picture, table, _ = look(served, place / "page.jpg")
    assert re.sub("<.*?>", "", said) == "page.jpg is a web page and not a picture: download the picture itself."
    assert picture is None and table == "" and "problem" in said
    assert look(served, place / "an eye.png")[0] == ""  # the next one is none the worse


def test_warnings_are_shown_and_escaped(place, served, tmp_path):
    write_png(tmp_path / "odd.png", phantom(5, 300, LESIONS).photo)
    said, picture, _, _ = look(served, tmp_path / "odd.png")
    assert "warning" in said and "It is &lt;i&gt;odd&lt;/i&gt;." in said and picture


def test_a_dicom_file_is_looked_at_like_its_pixels(place, served, tmp_path):
    photo = read_photo(place / "an eye.png")
    dataset = photo_dataset(photo)
    add_identity(dataset)
    one = write_dicom(tmp_path / "eye.dcm", dataset)
    said, _, table, _ = look(served, one)
    assert (
        SECRET not in said + table
        and said == ""
        and numbers(table)
        == {lesion: (int(row["count"]), int(row["area_pixels"])) for lesion, row in report(place).items()}
    )
    two = write_dicom(tmp_path / "visit.dcm", photo_dataset(np.stack([photo, photo[::-1]])))
    said, _, same, _ = look(served, two)
    assert "holds 2 photographs; this is the first" in said and same == table


def test_nothing_but_the_cache_is_served(place, served):
    from urllib.error import HTTPError

    for path in (place / "an eye.png", "/etc/passwd", Path(__file__)):
        with pytest.raises(HTTPError):
            FETCH(f"{served.address}gradio_api/file={str(path).replace(' ', '%20')}", timeout=60)


# ---- as a process, in a browser


@contextmanager
def process(place, *arguments, environment=()):
    """The app as the command runs it: the process and its address."""
    models = [text for lesion in LESIONS for text in ("--model", str(place / lesion))]
    started = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "app", *models, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | dict(environment),
    )
    try:
        line = started.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", line)
        yield started, address[0] if address else started.communicate()[1]
    finally:
        if started.poll() is None:
            started.kill()
            started.communicate()


UPLOAD = "#photograph input[type=file]"


def move(tab, slider, value):
    """Move a slider, as a person would."""
    tab.evaluate(f"""(() => {{
        const slider = document.querySelector('{slider} input[type=range]');
        slider.value = '{value}';
        for (const kind of ['input', 'change']) slider.dispatchEvent(new Event(kind, {{bubbles: true}}));
    }})()""")


def shown_picture(tab):
    """The picture on the page, once it is another than before."""
    with FETCH(tab.evaluate("document.querySelector('#picture img').src"), timeout=60) as answer:
        return cv2.imdecode(np.frombuffer(answer.read(), np.uint8), cv2.IMREAD_COLOR_RGB)


PIXELS = "[...document.querySelectorAll('#table tr[data-lesion]')].map(row => row.outerHTML).join('')"


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_page_in_a_browser(place, tmp_path):
    pytest.importorskip("gradio")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    nowhere = dict(
        HTTP_PROXY="http://127.0.0.1:9",
        HTTPS_PROXY="http://127.0.0.1:9",
        NO_PROXY="",
        no_proxy="",
        TMPDIR=str(temporary),
    )
    with process(place, environment=nowhere) as (started, address), Browser() as tab:
        tab.open(address)
        tab.upload(UPLOAD, place / "an eye.png")
        table = tab.wait(PIXELS)
        assert numbers(table) == {
            lesion: (int(row["count"]), int(row["area_pixels"])) for lesion, row in report(place).items()
        }
        tab.wait("document.querySelector('#picture img')?.complete")
        both, source = shown_picture(tab), tab.evaluate("document.querySelector('#picture img').src")
        cv2.imwrite(str(tmp_path / "page.png"), tab.screenshot()[..., ::-1])  # to be looked at

        tab.evaluate("document.querySelectorAll('#shown input[type=checkbox]')[0].click()")  # exudates away
        tab.wait(f"document.querySelector('#picture img').src != {source!r}")
        seen = look_at(place / "an eye.png", [load_run(place / lesion) for lesion in LESIONS])
        exudates = masks_at(seen, seen.thresholds)["exudates"]
        assert np.abs(both[exudates].astype(int) - seen.photo[exudates]).mean() > 10  # what was colored
        assert (
            np.abs(shown_picture(tab)[exudates].astype(int) - seen.photo[exudates]).mean() < 6
        )  # is the photograph again
        assert numbers(tab.evaluate(PIXELS)) == numbers(table)  # a layer that is not shown is still counted

        move(tab, "#threshold_exudates", 0.9)
        tab.wait(f"{PIXELS} != {table!r}")
        assert numbers(tab.evaluate(PIXELS)) == expected(place, dict(exudates=0.9, hemorrhages=0.5))
        move(tab, "#threshold_exudates", 0.432)
        tab.wait(f"{PIXELS} == {table!r}")

        tab.evaluate("document.querySelector('#make_archive').click()")
        link = tab.wait("document.querySelector('#archive a[href*=\"/file=\"]')?.href")
        with FETCH(link, timeout=60) as answer:
            (tmp_path / "lesions.zip").write_bytes(answer.read())
        assert_same_files(tmp_path / "lesions.zip", place)

        clear = '#photograph button[aria-label="Clear"], #photograph button[title="Clear"]'
        tab.evaluate(f"document.querySelector('{clear}').click()")
        tab.wait(f"{PIXELS} == ''")
        tab.upload(UPLOAD, place / "page.jpg")
        sentence = tab.wait("document.querySelector('#said .problem')?.innerText")
        assert sentence == "page.jpg is a web page and not a picture: download the picture itself."
        asked = tab.asked()
        assert len(asked) > 20 and all(re.match(r"http://127\.0\.0\.1:|data:|blob:", url) for url in asked), asked
        assert tab.complaints() == []
        started.send_signal(signal.SIGTERM)
        output, errors = started.communicate(timeout=120)
        assert started.returncode == 0 and "ended" in output, errors
        assert not list(temporary.glob("retinal_tl_*"))  # nobody's photograph is left behind


def test_the_model_of_the_package_is_the_default():
    parser = argparse.ArgumentParser()
    add_app(parser.add_subparsers())
    assert parser.parse_args(["app"]).model is None  # which `app_command` takes for builtin
    assert parser.parse_args(["app", "--model", "a", "--model", "b"]).model == ["a", "b"]


def test_a_taken_port_is_one_sentence(place):
    import socket

    pytest.importorskip("gradio")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        parser = argparse.ArgumentParser()
        add_app(parser.add_subparsers())
        arguments = parser.parse_args(
            ["app", "--model", str(place / "exudates"), "--port", str(taken.getsockname()[1])]
        )
        handler, environment = signal.getsignal(signal.SIGTERM), os.environ.copy()
        with pytest.raises(RetinalError, match="choose another one with --port"):
            arguments.work(arguments)
        assert signal.getsignal(signal.SIGTERM) is handler and os.environ.copy() == environment


def test_it_listens_to_this_machine_alone(place, served):
    import socket

    port = int(served.address.rstrip("/").split(":")[-1])
    with open("/proc/net/tcp" if Path("/proc/net/tcp").exists() else os.devnull) as file:
        listening = [
            line.split()[1] for line in file if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")
        ]
    if not listening:
        pytest.skip("this system does not list its sockets")
    assert listening == [f"0100007F:{port:04X}"] and socket.inet_aton("127.0.0.1") == b"\x7f\0\0\1"
