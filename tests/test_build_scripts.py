"""The scripts that build the book, each part on a small example: `docs`, `outputs`, `notebook` and `test`.

The whole site is looked at by test_site.py, the saved outputs by test_outputs.py.
"""

import ast
import json
import re
from pathlib import Path

import docs
import outputs

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOKS = outputs.notebook_files([]) + outputs.notebook_files(["run_"])


def test_imports_stand_alone():
    """Building the site executes each cell that imports: one that also changes folder, or trains, would do so there."""
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
    string = '<span class="st">"""a\n  b"""</span>'
    comment = '<span class="co"># of [`train`](./training.html#train)</span>'
    code = f'x <span class="op">=</span> {string}\nretinal_tl run {comment} -p data'
    lines = docs.set_lines(code).split("\n")
    assert len(lines) == 3 and all(
        line.count("<span") == line.count("</span>") and line.startswith('<span class="line"') for line in lines
    )
    assert "--indent: 2ch" in lines[1] and '<span class="st">  b' in lines[1]
    assert '<a href="./training.html#train">train</a>' in lines[2] and '<span class="option">-p</span>' in lines[2]


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


def test_pieces_of_what_was_printed_are_one():
    printed = [
        {"output_type": "stream", "name": name, "text": text}
        for name, text in (("stdout", "one "), ("stderr", "warning"), ("stdout", "line\n"))
    ]
    picture = {"output_type": "display_data", "data": {"text/plain": "a picture"}}
    last = {"output_type": "stream", "name": "stdout", "text": "end"}
    assert [output.get("text") for output in outputs.joined([*printed, picture, last])] == ["one line\n", None, "end"]


def test_every_notebook_with_something_to_show_has_its_outputs():
    """A notebook that was saved without having been run shows nothing on its page."""
    bare = []
    for path in outputs.notebook_files([]):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        sources = ["".join(cell["source"]) for cell in cells]
        says = [
            source
            for source in sources
            if "print(" in source
            and "def " not in source
            and "subprocess" not in source
            and not source.startswith("#|")
        ]
        if says and not any(cell["outputs"] for cell in cells):
            bare.append(path.relative_to(REPOSITORY).as_posix())
    assert not bare, f"{', '.join(bare)}: `make outputs` runs them"
