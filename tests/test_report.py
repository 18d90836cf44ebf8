"""The HTML report in a browser, and the outlines that come with it: what a reader sees is what was found."""

import csv
import json
import os
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from browser import CHROMIUM, Browser
from retinal_tl.command import main
from retinal_tl.core import LESION_COLORS, write_text
from retinal_tl.images import write_png
from retinal_tl.report import PICTURE_SIDE, ReportPhoto, report_html, report_photo
from retinal_tl.synthetic import phantom
from toy_runs import toy_card, write_toy_run

pytestmark = pytest.mark.slow

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)"
)
LESIONS = ("exudates", "hemorrhages")
SIZES = dict(desktop=(1280, 900, False), phone=(390, 844, True))
HOSTILE = "</script><script>window.hacked = 1</script>\"'&{{ 7 }}.png"  # no file can have it: a slash means a folder


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """What the command makes of three eyes (one dark, one with a bad name) and a broken file: folder, report.csv."""
    folder = tmp_path_factory.mktemp("batch")
    here = os.getcwd()
    os.chdir(folder)
    try:
        for lesion in LESIONS:
            write_toy_run(f"runs/{lesion}", lesions=lesion, limits=(f"Knows <i>{lesion}</i> & no other.",))
        eye = phantom(4, size=560, lesions=LESIONS).photo
        for name, photo in {
            "a.png": eye,
            "<img src=x onerror=alert(1)>'\".png": phantom(5, size=560, lesions=LESIONS).photo,
            "dark.png": np.uint8(eye * 0.2),
        }.items():
            write_png(f"eyes/{name}", photo)
        write_text("eyes/page.jpg", "<html>")
        models = [text for lesion in LESIONS for text in ("--model", f"runs/{lesion}")]
        assert main(["segment", "eyes", *models, "--output", "maps", "--format", "png,geojson"]) == 1
        with open("maps/report.csv", newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    finally:
        os.chdir(here)
    return folder, rows


@pytest.fixture(scope="module", params=SIZES)
def page(batch, request):
    """The report of the batch, open in a browser."""
    browser = Browser(*SIZES[request.param])
    browser.open((batch[0] / "maps" / "report.html").as_uri())
    yield browser
    browser.close()


def choose(page, number):
    """Go to a photograph, and wait for its picture."""
    page.evaluate(f"location.hash = '{number}'; new Promise(done => setTimeout(done, 100))")
    page.evaluate("""(() => {
        const image = new Image();
        image.src = document.querySelector('#picture image').getAttribute('href');
        return image.decode();
    })()""")


def set_control(page, control, value, event):
    """Give a control another value, as a person would."""
    page.evaluate(f"""(() => {{
        const control = document.getElementById('{control}');
        control.value = '{value}';
        control.dispatchEvent(new Event('{event}'));
    }})()""")


def shown(page, selector):
    """The cells of a table, as the values that they stand for."""
    return page.evaluate(f"""[...document.querySelectorAll('{selector} tr')].map(
        row => [...row.cells].map(cell => cell.dataset.value ?? cell.textContent))""")


COLUMNS = (
    *("lesion", "area_pixels", "count", "share_of_field", "threshold"),
    *("laterality", "exudate_to_fovea", "edema_risk"),
)


@needs_chromium
def test_numbers_are_those_of_the_table(page, batch):
    done = [row for row in batch[1] if not row["problem"]]
    assert len(done) == 6
    assert shown(page, "#all tbody") == [[row["photo"], *(row[name] for name in COLUMNS)] for row in done]
    for number, name in enumerate(dict.fromkeys(row["photo"] for row in done), 1):
        choose(page, number)
        assert page.evaluate("document.getElementById('name').textContent") == name
        assert shown(page, "#numbers") == [[row[name] for name in COLUMNS] for row in done if row["photo"] == name]
        percent = page.evaluate(
            "[...document.querySelectorAll('#numbers td:nth-child(4)')].map(cell => parseFloat(cell.textContent))"
        )
        assert percent == pytest.approx(
            [100 * float(row["share_of_field"]) for row in done if row["photo"] == name], rel=0.006
        )
    totals = {lesion: [row for row in done if row["lesion"] == lesion] for lesion in LESIONS}
    assert shown(page, "#totals tbody") == [
        [lesion, str(sum(row["count"] != "0" for row in rows)), str(sum(int(row["count"]) for row in rows))]
        for lesion, rows in totals.items()
    ]


@needs_chromium
def test_nothing_is_complained_about_or_loaded(page):
    page.open(page.evaluate("location.href").partition("#")[0])
    for number in (1, 2, 3):
        choose(page, number)
    assert page.complaints(strict=True) == []
    assert page.evaluate(
        "window.hacked === undefined && document.querySelectorAll('img[src=x], header script, i').length === 0"
    )


@needs_chromium
def test_warnings_and_problems_have_their_reason(page, batch):
    row = next(row for row in batch[1] if row["warning"])
    assert row["photo"] == "eyes/dark.png" and "Too dark" in row["warning"]
    assert page.evaluate("document.getElementById('warned').textContent") == f"{row['photo']}: {row['warning']}"
    page.evaluate("document.querySelector('#warned a').click()")
    choose(page, page.evaluate("location.hash")[1:])
    assert (
        page.evaluate("[...document.querySelectorAll('#warnings p')].map(line => line.textContent).join(' ')")
        == row["warning"]
    )
    problem = next(row["problem"] for row in batch[1] if row["problem"])
    assert "web page" in problem and page.evaluate("document.getElementById('failed').textContent") == problem
    assert "not a medical device" in page.evaluate("document.querySelector('footer').textContent")
    assert page.evaluate("[...document.querySelectorAll('footer li')].map(line => line.textContent)") == [
        f"Knows <i>{lesion}</i> & no other." for lesion in LESIONS
    ]


@needs_chromium
def test_the_grid_can_be_switched(page, batch):
    row = next(row for row in batch[1] if row["fovea_x"])
    choose(page, list(dict.fromkeys(row["photo"] for row in batch[1])).index(row["photo"]) + 1)
    with_grid = page.screenshot("#picture").astype(int)
    page.click("#grid")
    without = page.screenshot("#picture").astype(int)
    changed = np.abs(with_grid - without).max(2) > 20
    height, width = changed.shape
    scale = min(height, width) / 560  # the picture is square, the frame may be wider
    places = [(float(row[f"{name}_x"]) * scale, float(row[f"{name}_y"]) * scale) for name in ("disc", "fovea")]
    radius, shift = float(row["disc_diameter"]) / 2 * scale, (np.array([width, height]) - 560 * scale) / 2
    rows, columns = np.nonzero(changed)
    for place, reach in zip(places, (radius, radius / 0.9 * 3)):  # the disc; the outer ring, 6 mm across
        on = np.abs(np.hypot(columns - place[0] - shift[0], rows - place[1] - shift[1]) - reach) < 2
        assert on.sum() > 2 * reach, "the circle is drawn where it should be"
    page.click("#grid")
    again = np.abs(page.screenshot("#picture").astype(int) - with_grid).max(2) > 20
    assert again.sum() < changed.sum() / 20, "it comes back"


@needs_chromium
def test_layers_and_slider_change_what_is_seen(page, batch):
    row = next(row for row in batch[1] if row["lesion"] == "hemorrhages" and int(row["count"]))
    number = list(dict.fromkeys(row["photo"] for row in batch[1])).index(row["photo"]) + 1
    choose(page, number)
    mask = cv2.imread(str(batch[0] / "maps" / f"{row['files']}_hemorrhages_mask.png"), cv2.IMREAD_GRAYSCALE)
    with_layer = page.screenshot("#picture").astype(int)
    side = min(with_layer.shape[:2])  # the picture is square, the frame may be wider
    margins = [(n - side) // 2 for n in with_layer.shape[:2]]
    cut = tuple(slice(margin, margin + side) for margin in margins)
    inside = cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA) > 250
    assert inside.sum() > 20
    page.click("#layers input[value=hemorrhages]")
    without = page.screenshot("#picture").astype(int)
    change = np.abs(with_layer - without).sum(2)[cut]
    near = cv2.dilate(cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA), np.ones((7, 7))) > 0
    assert np.median(change[inside]) > 30 and np.percentile(change[~near], 99.9) < 30, (
        "the layer is where the mask is, and nowhere else"
    )
    color = np.array(LESION_COLORS["hemorrhages"])
    assert np.abs(with_layer[cut][inside] - color).mean() < np.abs(without[cut][inside] - color).mean()
    page.click("#layers input[value=hemorrhages]")
    assert np.median(np.abs(page.screenshot("#picture").astype(int) - with_layer).sum(2)[cut][inside]) < 5

    page.evaluate("document.getElementById('opacity').focus()")
    before = page.evaluate("Number(document.getElementById('opacity').value)")
    for _ in range(30):
        page.key("ArrowLeft", 37)
    after = page.evaluate("Number(document.getElementById('opacity').value)")
    assert (
        after == before - 30 and page.evaluate("document.getElementById('opacity-value').textContent") == f"{after} %"
    )
    fainter = np.abs(page.screenshot("#picture").astype(int) - without).sum(2)[cut]
    assert np.median(fainter[inside]) == pytest.approx(np.median(change[inside]) * after / before, rel=0.25)
    page.key("Home", 36)
    assert np.median(np.abs(page.screenshot("#picture").astype(int) - without).sum(2)[cut][inside]) < 5
    set_control(page, "opacity", before, "input")


@needs_chromium
def test_moving_about(page):
    choose(page, 1)
    page.click("#next")
    page.evaluate("new Promise(done => setTimeout(done, 100))")
    assert page.evaluate(
        "[location.hash, document.querySelector('#list a[aria-current]').closest('li').dataset.number]"
    ) == ["#2", "2"]
    page.evaluate("document.activeElement.blur()")
    page.key("ArrowLeft", 37)
    page.evaluate("new Promise(done => setTimeout(done, 100))")
    assert page.evaluate("location.hash") == "#1" and page.evaluate("document.getElementById('previous').disabled")
    set_control(page, "which", "warned", "change")
    assert page.evaluate("document.getElementById('shown').textContent") == "1 of 3 shown"
    set_control(page, "which", "all", "change")
    set_control(page, "search", "ONERROR", "input")
    assert page.evaluate("[...document.querySelectorAll('#list li')].filter(item => !item.hidden).length") == 1
    set_control(page, "search", "", "input")
    set_control(page, "zoom", "2", "change")
    assert page.evaluate(
        "document.getElementById('frame').scrollWidth > 1.9 * document.getElementById('frame').clientWidth"
    )
    set_control(page, "zoom", "1", "change")


@needs_chromium
def test_layout_names_and_colors(page):
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than the screen"
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    wanted = {"checkbox", "slider", "button", "combobox", "searchbox", "link", "image", "navigation"}
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in wanted
    ]
    assert {"checkbox", "slider", "button", "combobox", "searchbox", "link", "navigation"} <= {
        role for role, _ in named
    }
    assert not [role for role, name in named if not name.strip()]

    def lightness():
        return sum(
            map(int, page.evaluate("getComputedStyle(document.body).backgroundColor").strip("rgb()").split(", "))
        )

    brightness = []
    for scheme in ("light", "dark"):
        page.call("Emulation.setEmulatedMedia", features=[dict(name="prefers-color-scheme", value=scheme)])
        brightness.append(lightness())
    page.call("Emulation.setEmulatedMedia", features=[])
    assert brightness[0] > 700 and brightness[1] < 120


@needs_chromium
def test_five_hundred_photographs(tmp_path):
    """Each with a picture of the full size that the report allows."""
    eye = cv2.resize(
        phantom(4, size=512, lesions=LESIONS).photo, (PICTURE_SIDE, PICTURE_SIDE), interpolation=cv2.INTER_CUBIC
    )
    masks = {
        lesion: cv2.resize(mask.astype(np.uint8), eye.shape[:2], interpolation=cv2.INTER_NEAREST) > 0
        for lesion, mask in phantom(4, size=512, lesions=LESIONS).masks.items()
    }
    one = report_photo("0.jpg", eye, masks, [])
    photos = [
        ReportPhoto(
            f"{i}.jpg",
            [dict(photo=f"{i}.jpg", lesion="exudates", area_pixels=i, count=i % 2, share_of_field=0.01, threshold=0.5)],
            (),
            "",
            one.shape,
            one.picture,
            one.thumbnail,
            one.layers,
        )
        for i in range(500)
    ]
    write_text(tmp_path / "report.html", report_html(photos))
    assert 15e6 < os.path.getsize(tmp_path / "report.html") < 60e6
    page = Browser()
    try:
        page.open((tmp_path / "report.html").as_uri() + "#500")
        assert page.evaluate(
            "[document.getElementById('name').textContent, document.getElementById('shown').textContent]"
        ) == ["499.jpg", "500 of 500 shown"]
        assert page.evaluate("document.querySelectorAll('image').length") == 1, "one photograph at a time"
        set_control(page, "which", "found", "change")
        assert page.evaluate("document.getElementById('shown').textContent") == "250 of 500 shown"
        assert page.complaints(strict=True) == []
    finally:
        page.close()


def test_both_answers_of_a_classifier_are_shown():
    """And the second is no empty column where a classifier does not give it."""
    one = dict(photo="eye.png", lesion="yes", lesion_probability=0.9)
    for row, shown in ((one, False), (one | dict(referable="no", referable_probability=0.2), True)):
        html = report_html([report_photo("eye.png", phantom(4, size=128).photo, {}, [row])])
        assert all(
            (text in html) == shown for text in ('data-value="no"', "probability that it is referable", ">referable<")
        )


@needs_chromium
def test_names_that_would_be_code_and_no_script(tmp_path):
    eye = phantom(4, size=128).photo
    rows = [dict(photo=HOSTILE, lesion_probability=0.5, lesion="yes")]
    write_text(
        tmp_path / "report.html",
        report_html(
            [report_photo(HOSTILE, eye, {}, rows, [HOSTILE]), ReportPhoto("b", problem=HOSTILE)],
            [toy_card(lesions=["soft_exudates", "exudates"], name=HOSTILE, limits=(HOSTILE,), licence=HOSTILE)],
            HOSTILE,
        ),
    )
    page = Browser()
    try:
        page.open((tmp_path / "report.html").as_uri())
        assert page.complaints(strict=True) == [] and page.evaluate("window.hacked === undefined")
        assert page.evaluate("document.querySelector('footer h2 + p').textContent.trim().split('\\n')[0]") == (
            "Outlines soft exudates, exudates."
        )
        assert f"Licence: {HOSTILE}." in page.evaluate("document.querySelector('footer h2 + p').textContent")
        for place in ("title", "h1", "#name", "#list span", "#warnings p", "#failed li", "footer h2", "footer li"):
            assert page.evaluate(f"document.querySelector('{place}').firstChild.textContent") == HOSTILE, place
        page.call("Emulation.setScriptExecutionDisabled", value=True)
        page.open((tmp_path / "report.html").as_uri())
        text = page.call("Runtime.evaluate", expression="document.body.innerText")["result"].get("value", "")
        tree = " ".join(
            str(node.get("name", {}).get("value", "")) for node in page.call("Accessibility.getFullAXTree")["nodes"]
        )
        assert "JavaScript" in text + tree
    finally:
        page.close()


def test_every_file_of_the_page_is_installed():
    """What the package reads from its own folder must be named in setup.py, or it is missing after `pip install`."""
    repository = Path(__file__).resolve().parent.parent
    [patterns] = re.findall(r"package_data=\{\"retinal_tl\": (\[.*?\])\}", (repository / "setup.py").read_text())
    installed = {path for pattern in json.loads(patterns) for path in (repository / "retinal_tl").glob(pattern)}
    assets = {path for path in (repository / "retinal_tl" / "assets").rglob("*") if path.is_file()}
    assert {"report.html.jinja", "report.css", "report.js"} <= {path.name for path in assets} and assets <= installed


# ---- outlines


def rings_of(feature):
    """The polygons of a feature, checked for what RFC 7946 asks of them."""
    kind, coordinates = feature["geometry"]["type"], feature["geometry"]["coordinates"]
    assert kind in ("Polygon", "MultiPolygon")
    polygons = [coordinates] if kind == "Polygon" else coordinates
    for polygon in polygons:
        for i, ring in enumerate(polygon):
            x, y = np.array(ring).T
            assert len(ring) >= 5 and ring[0] == ring[-1] and len({tuple(point) for point in ring}) == len(ring) - 1
            assert (np.diff(x) * np.diff(y) == 0).all()  # along the sides of pixels
            assert (x[:-1] @ y[1:] - x[1:] @ y[:-1] > 0) == (i == 0)  # outer ring one way, holes the other
    return polygons


def test_outlines_are_the_masks(batch):
    done = {
        row["files"]: [other for other in batch[1] if other["files"] == row["files"]]
        for row in batch[1]
        if not row["problem"]
    }
    for stem, rows in done.items():
        collection = json.loads((batch[0] / "maps" / f"{stem}.geojson").read_text())
        assert collection["type"] == "FeatureCollection" and "y down" in collection["coordinates"]
        for row in rows:
            mask = cv2.imread(str(batch[0] / "maps" / f"{stem}_{row['lesion']}_mask.png"), cv2.IMREAD_GRAYSCALE) > 0
            levels = cv2.imread(
                str(batch[0] / "maps" / f"{stem}_{row['lesion']}_probability.png"), cv2.IMREAD_UNCHANGED
            )
            assert (collection["height"], collection["width"]) == mask.shape
            features = [
                feature for feature in collection["features"] if feature["properties"]["lesion"] == row["lesion"]
            ]
            assert len(features) == int(row["count"])
            painted = np.zeros(mask.shape, int)
            for feature in features:
                crossings = np.zeros((mask.shape[0], mask.shape[1] + 1), int)
                for ring in (ring for polygon in rings_of(feature) for ring in polygon):
                    for (x, y), (x2, y2) in zip(ring, ring[1:]):
                        if x == x2:
                            crossings[min(y, y2) : max(y, y2), x] += 1
                spot = np.cumsum(crossings, 1)[:, :-1] % 2 == 1
                painted += spot
                about = feature["properties"]
                assert about["area_pixels"] == spot.sum()
                assert about["mean_probability"] == pytest.approx(levels[spot].mean() / 65535, abs=1e-5)
                assert about["max_probability"] == pytest.approx(levels[spot].max() / 65535, abs=1e-5)
            assert (painted == mask).all()
    assert sum(int(row["count"]) for rows in done.values() for row in rows) > 20
