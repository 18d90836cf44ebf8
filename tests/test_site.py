"""The site: built once without the network, every link of every page followed, every page opened at two widths."""

import functools
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import docs
from browser import CHROMIUM, Browser

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(
    path
    for path in (REPOSITORY / "nbs").rglob("*.ipynb")
    if not {".ipynb_checkpoints", "runs", "data"} & set(path.relative_to(REPOSITORY).parts)
)
MEGABYTE = 2**20
WIDTHS = (390, 1280)
pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.site]


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The site, built from a copy of the repository, so that `_docs` and `_proc` of the user's own stay as they are."""
    copy = tmp_path_factory.mktemp("project") / "retinal_tl"
    copy.mkdir()
    for name in ("nbs", "retinal_tl", "tools", "tests"):
        shutil.copytree(
            REPOSITORY / name,
            copy / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "runs", "data", "nbdev.yml"),
        )
    for name in ("settings.ini", "_quarto.yml", "README.md"):
        shutil.copy(REPOSITORY / name, copy)
    done = subprocess.run([sys.executable, "tools/build/docs.py"], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("0 broken links"), done.stdout
    return copy / "_docs"


@pytest.fixture(scope="session")
def pages(site):
    """Every page, by its address below the site."""
    return {
        path.relative_to(site).as_posix(): path.read_text(encoding="utf-8") for path in sorted(site.rglob("*.html"))
    }


@pytest.fixture(scope="session")
def server(site):
    """The site's address on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


@pytest.fixture(scope="session")
def tab():
    """A tab of headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium to open the pages with")
    with Browser() as tab:
        yield tab


def test_every_notebook_is_a_page(pages):
    expected = {
        docs.NUMBER.sub("", path.relative_to(REPOSITORY / "nbs").with_suffix(".html").as_posix()) for path in NOTEBOOKS
    }
    assert set(pages) - {"404.html"} == expected


def test_links_lead_somewhere_and_nothing_is_loaded_from_elsewhere(site):
    assert docs.broken_links(site) == []


def test_pages_and_notebooks_are_small(pages):
    assert {name: len(text) for name, text in pages.items() if len(text.encode()) > 2 * MEGABYTE} == {}
    assert sum(path.stat().st_size for path in NOTEBOOKS) < 12 * MEGABYTE


def test_equations_are_drawn_without_a_program(pages):
    left = [name for name, text in pages.items() if re.search(r'class="math |katex|\\\(|MathJax', text)]
    assert not left, f"{', '.join(left)}: an equation is still TeX"
    assert any("<math" in text for text in pages.values())


def test_records_show_what_their_fields_mean(pages):
    text = re.sub(r"<[^>]*>", "", pages["settings.html"])
    assert "patch_size:int=None, # side of a patch" in text and "# one of `ENCODERS`" in text


def test_lesions_are_not_linked_to_the_functions_that_draw_them(pages):
    assert not [
        name
        for name, text in pages.items()
        if name != "synthetic_lesions.html" and "synthetic_lesions.html#hemorrhages" in text
    ]


def test_mentioned_functions_are_links(pages):
    """A public function named in the prose of a page leads to where it is explained."""
    known = set()
    for path in sorted((REPOSITORY / "retinal_tl").glob("[a-z]*.py")):
        match = re.search(r"^__all__ = \[(.*?)\]", path.read_text(encoding="utf-8"), re.S | re.M)
        known |= set(re.findall(r"'([a-z]+_\w+)'", match[1])) if match else set()
    plain = {
        f"{name}: {word}"
        for name, text in pages.items()
        for word in re.findall(r"<p>[^\n]*?(?<!\">)<code>(\w+)</code>(?!</a>)", text)
        if word in known
    }
    assert not plain, f"not linked: {', '.join(sorted(plain)[:10])}"


def test_the_search_knows_every_page(site, pages):
    found = {entry["href"].split("#")[0] for entry in json.loads((site / "search.json").read_text(encoding="utf-8"))}
    assert found >= {name for name in pages if name != "404.html"}


def test_pages_open_without_complaint_and_fit(tab, server, pages):
    problems = []
    for name in pages:
        tab.resize(WIDTHS[0], mobile=True)
        tab.open(f"{server}/{name}")
        for width in WIDTHS:
            tab.resize(width, mobile=width < 600)
            wide, there = tab.evaluate("[document.scrollingElement.scrollWidth, document.scrollingElement.clientWidth]")
            if wide > there:
                problems.append(f"{name} at {width}: {wide - there} pixels wider than the window")
            broken = tab.evaluate(
                "[...document.images].filter(image => !image.complete || !image.naturalWidth)"
                ".map(image => image.src.slice(0, 80))"
            )
            problems += [f"{name} at {width}: the picture {source} is not shown" for source in broken]
        problems += [f"{name}: {complaint}" for complaint in tab.complaints()]
    assert not problems, "\n".join(problems)


def test_the_browser_test_would_notice(tab, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        '<body><div style="width: 2000px">wide</div><img src="gone.png">'
        '<script>console.error("oh"); nothing.at.all</script>'
    )
    tab.resize(390, mobile=True)
    tab.open(page.as_uri())
    complaints = " ".join(tab.complaints())
    assert "oh" in complaints and "nothing is not defined" in complaints and "ERR_FILE_NOT_FOUND" in complaints
    assert tab.evaluate("document.scrollingElement.scrollWidth > 390")
    tab.resize(1280)
    assert tab.evaluate("document.scrollingElement.scrollWidth > document.scrollingElement.clientWidth")


def test_search_and_dark_mode_work(tab, server):
    tab.resize(1280)
    tab.open(f"{server}/index.html")
    color = "getComputedStyle(document.body).backgroundColor"
    light = tab.evaluate(color)
    tab.evaluate(
        "document.querySelector('.quarto-color-scheme-toggle').click(), new Promise(done => setTimeout(done, 500))"
    )
    assert tab.evaluate(color) != light
    tab.evaluate("""(() => {
        let box = document.querySelector('.smalldocs-search input');
        box.focus();
        box.value = 'field of view';
        box.dispatchEvent(new Event('input', {bubbles: true}))
    })()""")
    shown = "document.querySelector('.smalldocs-search-results').innerText"
    found = tab.evaluate(f"""new Promise(done => {{
        let left = 100, look = () => {shown} || !left-- ? done({shown}) : setTimeout(look, 50);
        look()
    }})""")
    assert "field of view" in found.lower()
    assert tab.complaints() == []
    tab.evaluate("localStorage.clear()")
