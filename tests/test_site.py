"""The site: built once without the network, every link of every page followed, every page opened at two widths."""

import ast
import functools
import http.server
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from browser import CHROMIUM, Browser

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(
    path
    for path in (REPOSITORY / "nbs").rglob("*.ipynb")
    if not {".ipynb_checkpoints", "runs", "data"} & set(path.parts)
)
MEGABYTE = 2**20
WIDTHS = (390, 1280)
pytestmark = pytest.mark.site


def load_docs():
    """`tools/docs.py` as a module."""
    spec = importlib.util.spec_from_file_location("docs", REPOSITORY / "tools" / "docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


docs = load_docs()


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
    done = subprocess.run([sys.executable, "tools/docs.py"], cwd=copy, capture_output=True, text=True)
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


def test_every_notebook_is_in_the_sidebar():
    yaml = pytest.importorskip("yaml")
    sidebar = yaml.safe_load((REPOSITORY / "_quarto.yml").read_text(encoding="utf-8"))["website"]["sidebar"]["contents"]
    listed = set(re.findall(r"[\w/]+\.ipynb", str(sidebar)))
    missing = {path.relative_to(REPOSITORY / "nbs").as_posix() for path in NOTEBOOKS} - listed
    assert not missing, f"{', '.join(sorted(missing))}: give them an entry in the sidebar of _quarto.yml"


def test_imports_stand_alone():
    """A build of the site executes each cell with an import: one that also changes folder, or trains, would do so there."""
    plain, mixed = (ast.Import, ast.ImportFrom, ast.Constant), []
    for path in NOTEBOOKS:
        if path.name.startswith("run_"):
            continue  # skip_exec
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] != "code" or "".join(cell["source"]).startswith("#| export"):
                continue
            lines = "".join(cell["source"]).splitlines()
            nodes = ast.parse("\n".join(line for line in lines if not line.startswith(("%", "!")))).body
            others = [
                node for node in nodes if not isinstance(node, plain) and not ast.unparse(node).startswith("sys.path.")
            ]
            if others and any(isinstance(node, plain[:2]) for node in nodes):
                mixed.append(f"{path.name}: {ast.unparse(others[0])[:60]}")
    assert not mixed, "\n".join(mixed)


def test_an_entry_without_its_page_is_left_out(tmp_path):
    for name in ("images.ipynb", "howto/export.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    menu = [
        dict(text="Home", href="index.ipynb"),
        dict(section="Data", contents=["images.ipynb", "absent.ipynb"]),
        dict(section="Nothing yet", contents=["tutorials/gpu.ipynb"]),
        "howto/export.ipynb",
        dict(text="Code", href="https://example.org"),
    ]
    assert docs.written(menu, tmp_path) == [
        dict(section="Data", contents=["images.ipynb"]),
        "howto/export.ipynb",
        dict(text="Code", href="https://example.org"),
    ]


def test_numbers_are_taken_off_links_alone():
    text = "[cards](../24_cards.ipynb#the-card) are in `nbs/24_cards.ipynb`, see [the first run](run_stage1.ipynb)"
    assert (
        docs.plain_links(text)
        == "[cards](../cards.ipynb#the-card) are in `nbs/24_cards.ipynb`, see [the first run](run_stage1.ipynb)"
    )


def test_lines_of_code_stand_alone():
    code = 'x <span class="op">=</span> <span class="st">"""a\n  b"""</span>\nretinal_tl run <span class="co"># of [`train`](./training.html#train)</span> -p data'
    lines = docs.set_lines(code).split("\n")
    assert len(lines) == 3 and all(
        line.count("<span") == line.count("</span>") and line.startswith('<span class="line"') for line in lines
    )
    assert "--indent: 2ch" in lines[1] and '<span class="st">  b' in lines[1]
    assert '<a href="./training.html#train">train</a>' in lines[2] and '<span class="option">-p</span>' in lines[2]


def test_links_lead_somewhere_and_nothing_is_loaded_from_elsewhere(site):
    assert docs.broken_links(site) == []


def test_the_link_checker_finds_what_is_broken(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html#there">1</a><a href="b.html#gone">2</a><img src="no.png"><script src="https://example.org/x.js"></script>'
    )
    (tmp_path / "b.html").write_text('<h2 id="there">x</h2>')
    assert [re.sub(r".*html: ", "", line) for line in docs.broken_links(tmp_path)] == [
        "https://example.org/x.js is loaded from the network.",
        "b.html#gone names a place that is not there.",
        "no.png is not there.",
    ]


def test_pages_and_notebooks_are_small(pages):
    assert {name: len(text) for name, text in pages.items() if len(text.encode()) > 2 * MEGABYTE} == {}
    assert sum(path.stat().st_size for path in NOTEBOOKS) < 12 * MEGABYTE


def test_equations_are_drawn_without_a_program(pages):
    left = [name for name, text in pages.items() if re.search(r'class="math |katex|\\\(|MathJax', text)]
    assert not left, f"{', '.join(left)}: an equation is still TeX"
    assert any("<math" in text for text in pages.values())


def test_records_show_what_their_fields_mean(pages):
    text = re.sub(r"<[^>]*>", "", pages["runs.html"])
    assert "patch_size:int | None=None, #" in text and "# one of `ENCODERS`" in text


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
                "[...document.images].filter(image => !image.complete || !image.naturalWidth).map(image => image.src.slice(0, 80))"
            )
            problems += [f"{name} at {width}: the picture {source} is not shown" for source in broken]
        problems += [f"{name}: {complaint}" for complaint in tab.complaints()]
    assert not problems, "\n".join(problems)


def test_the_browser_test_would_notice(tab, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        '<body><div style="width: 2000px">wide</div><img src="gone.png"><script>console.error("oh"); nothing.at.all</script>'
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
    tab.evaluate("""(() => {let box = document.querySelector('.smalldocs-search input'); box.focus(); box.value = 'field of view';
                box.dispatchEvent(new Event('input', {bubbles: true}))})()""")
    shown = "document.querySelector('.smalldocs-search-results').innerText"
    found = tab.evaluate(
        f"new Promise(done => {{let left = 100, look = () => {shown} || !left-- ? done({shown}) : setTimeout(look, 50); look()}})"
    )
    assert "field of view" in found.lower()
    assert tab.complaints() == []
    tab.evaluate("localStorage.clear()")
