"""Build the site into _docs, without Quarto: nbdev processes the notebooks, smalldocs renders them.

Between the two and after them, some things are mended. smalldocs does not read `output-file`, so the numbers are taken
off file names and links here. nbdev's links to functions are made relative, so that the site works from any place and
from disk. Equations become MathML, which browsers draw by themselves; smalldocs would load a program for them from the
network. At the end every link is checked: the exit status is 1 if one leads nowhere.
"""

import html
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import typing
from dataclasses import is_dataclass
from functools import cache
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml

from outputs import joined


class _OfTheLibrary:
    """True in the library and in a notebook's cells: what they import for type checkers is imported for the pages."""

    def __bool__(self) -> bool:
        name = str(sys._getframe(1).f_globals.get("__name__"))
        return name == "__main__" or name.startswith("retinal_tl.")


typing.TYPE_CHECKING = _OfTheLibrary()  # nbdev evaluates annotations; its processes import this script first

REPOSITORY = Path(__file__).resolve().parent.parent.parent
NUMBER = re.compile(r"(?<![\w.-])\d+[a-zA-Z]?_(?=[\w-]+\.(?:ipynb|html)\b)")  # `10_` of `11_cbam.ipynb`
# what nbdev takes for functions of other pages, although the prose means lesions, a word in a card or a folder
NO_FUNCTION = re.compile(
    r"\[(`(?:exudates|hemorrhages|microaneurysms|soft_exudates|photograph|train|Eye)`)\]\(\S*?(\w+)\.html[^)]*\)"
)
KATEX = re.compile(
    r"<(?:link|script)[^>]*katex[^>]*>(?:</script>)?|<script>[^<]*renderMathInElement[^<]*</script>", re.S
)
CODE = re.compile(r'(<pre[^>]*><code class="sourceCode[^>]*>)(.*?)(</code></pre>)', re.S)
MATH = re.compile(r'<span class="math (inline|display)">\s*\\[(\[](.*?)\\[)\]]\s*</span>', re.S)


def process_notebooks() -> None:
    """Let nbdev turn the notebooks into pages with the functions documented, in _proc."""
    from nbdev.config import get_config
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs

    multiprocessing.set_start_method(
        "spawn", force=True
    )  # nbdev has threads by now, and a fork of them may wait for ever
    os.chdir(REPOSITORY / "nbs")  # where the notebooks are executed in the tests as well
    refresh_quarto_yml()
    mend_pages(proc_nbs(force=True), get_config().doc_host + get_config().doc_baseurl)


def plain_links(text: str) -> str:
    """Markdown whose links lead to pages without a number; what it says of files stays as it is."""
    return re.sub(r"\]\([^)\s]*\)", lambda match: NUMBER.sub("", match[0]), text)


def with_fields(text: str, module: str, name: str) -> str:
    """What nbdev shows of a dataclass, with the comments of its fields, which nbdev loses."""
    from fastcore.docments import DocmentText

    thing = getattr(import_module(f"retinal_tl.{module}"), name)
    if not is_dataclass(thing):
        return text
    return re.sub(
        r"```python\n.*?```",
        lambda _: f"```python\n{DocmentText(thing, docstring=False)}\n```",
        text,
        count=1,
        flags=re.S,
    )


def mend_pages(
    pages: Path,  # the folder of processed notebooks
    address: str,  # of the published site, with which nbdev's links begin
) -> None:
    """Take the numbers off names and links, and make nbdev's absolute links relative."""
    for path in [*pages.rglob("*.ipynb")]:
        up = "../" * (len(path.relative_to(pages).parts) - 1) or "./"
        notebook = json.loads(path.read_text(encoding="utf-8"))

        own = NUMBER.sub("", path.name)[:-6]

        def keep(match, own=own):
            return match[0] if match[2] == own else match[1]

        for cell in notebook["cells"]:
            source = "".join(cell["source"]).replace(f"]({address}/", f"]({up}")
            if cell["cell_type"] == "markdown":
                source = NO_FUNCTION.sub(keep, plain_links(source))
            if cell["cell_type"] == "raw":
                source = re.sub(r"^output-file:.*\n", "", source, flags=re.M)
            cell["source"] = source
            if "outputs" in cell:
                cell["outputs"] = joined(cell["outputs"])
            for output in cell.get("outputs", []):
                data = output.get("data", {})
                for kind in {"text/html", "text/markdown"} & set(data):
                    text = "".join(data[kind]).replace(f"]({address}/", f"]({up}").replace(f'"{address}/', f'"{up}')
                    if shown := re.search(r"^show_doc\((\w+)\)", source, re.M):
                        text = with_fields(text, own, shown[1])
                    data[kind] = NO_FUNCTION.sub(keep, text)
        path.with_name(NUMBER.sub("", path.name)).write_text(json.dumps(notebook), encoding="utf-8")
        if NUMBER.match(path.name):
            path.unlink()
    settings = pages / "_quarto.yml"
    text = NUMBER.sub("", settings.read_text(encoding="utf-8"))
    settings.unlink()  # a link would lead to the repository's own
    settings.write_text(
        yaml.safe_dump(site_settings(text, pages), sort_keys=False, allow_unicode=True), encoding="utf-8"
    )


def site_settings(text: str, pages: Path) -> dict:
    """`_quarto.yml` for smalldocs: equations are ours, and an entry whose page is not written yet is left out."""
    settings = yaml.safe_load(text)
    settings["format"]["html"].pop("html-math-method", None)
    website = settings["website"]
    website["navbar"]["left"] = written(website["navbar"]["left"], pages)
    website["sidebar"]["contents"] = written(website["sidebar"]["contents"], pages)
    return settings


def written(entries: list, pages: Path) -> list:
    """The entries of a menu whose pages are there; a section without any is left out too."""
    kept = []
    for entry in entries:
        if isinstance(entry, dict) and "contents" in entry:
            entry = entry | dict(contents=written(entry["contents"], pages))
        page = entry if isinstance(entry, str) else entry.get("href", "")
        if entry != page and entry.get("contents") == []:
            continue
        if not page.endswith(".ipynb") or (pages / page).exists():
            kept.append(entry)
    return kept


@cache
def mathml(formula: str, display: bool) -> str:
    """A TeX formula as MathML."""
    from latex2mathml.converter import convert

    return convert(html.unescape(formula), display="block" if display else "inline")


def set_lines(code: str) -> str:
    """Highlighted code with each line in an element of its own, as Quarto writes it.

    So the style can indent what follows a break. nbdev's links in the comments of a signature become links; an option
    such as `-p` is not broken after its hyphen.
    """
    code = re.sub(r"\[`([^`\]]*)`\]\(([^)\s]*)\)", r'<a href="\2">\1</a>', code)
    code = re.sub(r"(?<![^\s>])--?[a-z][\w-]*(?![^<]*>)", r'<span class="option">\g<0></span>', code)
    lines, opened = (
        [],
        [],
    )  # opened: the tags of the elements, a string of several lines say, that the line before left open
    for line in code.split("\n"):
        start, indent = "".join(opened), len(re.match(r" *", re.sub(r"<[^>]*>", "", line))[0])
        for tag in re.findall(r"<[^>]*>", line):
            if tag.startswith("</"):
                opened.pop()
            else:
                opened.append(tag)
        ends = "".join(f"</{re.match(r'<([a-z0-9]+)', tag)[1]}>" for tag in reversed(opened))
        lines.append(f'<span class="line" style="--indent: {indent}ch">{start}{line}{ends}</span>')
    return "\n".join(lines)


def mend_site(site: Path) -> None:
    """Draw the equations, set the lines of code, and load nothing from the network."""
    for path in site.rglob("*.html"):
        text = MATH.sub(lambda match: mathml(match[2], match[1] == "display"), path.read_text(encoding="utf-8"))
        text = CODE.sub(lambda match: match[1] + set_lines(match[2]) + match[3], text)
        path.write_text(KATEX.sub("", text), encoding="utf-8")
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        path.write_text(
            re.sub(r"@import\s+(url\([^)]*\)|\"[^\"]*\"|'[^']*')\s*;", "", text), encoding="utf-8"
        )  # fonts of the themes


LOADED = {("link", "href"), ("script", "src"), ("img", "src"), ("iframe", "src")}  # what a browser fetches by itself


class Links(HTMLParser):
    """The links that a page has and the places in it that can be linked to."""

    def __init__(self, text: str):
        super().__init__()
        self.targets, self.places, self.loaded = set(), set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("href", "src") and value:
                self.targets.add(value)
            if name in ("id", "name") and value:
                self.places.add(value)
            if (tag, name) in LOADED and re.match(r"(https?:)?//", value or ""):
                self.loaded.add(value)


def broken_links(site: Path) -> list[str]:
    """A sentence for each link, picture or script that leads nowhere or that is loaded from elsewhere."""
    pages = {path.resolve(): Links(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    problems = []
    for path, links in pages.items():
        name = path.relative_to(site.resolve())
        problems += [f"{name}: {target} is loaded from the network." for target in sorted(links.loaded)]
        for target in sorted(links.targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            found = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if found.is_dir():
                found = found / "index.html"
            if not found.exists():
                problems.append(f"{name}: {target} is not there.")
            elif parts.fragment and found in pages and unquote(parts.fragment) not in pages[found].places:
                problems.append(f"{name}: {target} names a place that is not there.")
    return problems


def step(*command) -> None:
    """Run a step of the build; what it prints is shown only if it fails, since the libraries it loads talk a lot."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}\nThe site was not built.")


def main() -> int | None:
    if "--process" in sys.argv:
        return process_notebooks()
    pages, site = REPOSITORY / "_proc", REPOSITORY / "_docs"
    step(sys.executable, __file__, "--process")
    step(Path(sys.executable).with_name("smalldocs"), "render", "--quiet", "--strict", pages)
    shutil.rmtree(site, ignore_errors=True)
    shutil.move(pages / "_docs", site)
    mend_site(site)
    problems = broken_links(site)
    for problem in problems:
        print(problem)
    print(f"{len(list(site.rglob('*.html')))} pages in _docs, {len(problems)} broken links")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
