"""Write README.md from nbs/index.ipynb; with `--check`, only say whether it is up to date."""

import re
import sys
from pathlib import Path

from execnb.nbio import read_nb

REPOSITORY = Path(__file__).resolve().parent.parent.parent
INDEX = REPOSITORY / "nbs" / "index.ipynb"
README = REPOSITORY / "README.md"


def from_root(match: re.Match) -> str:
    """A link as it reads from the top folder: `(images/a.png)` in nbs/ is `(nbs/images/a.png)` there."""
    target, part = re.fullmatch(r"([^#]*)(#.*)?", match[1]).groups()
    if not target or re.match(r"[a-z]+:", target):
        return match[0]
    path = (INDEX.parent / target).resolve()
    if not path.exists():
        raise SystemExit(f"nbs/index.ipynb links to {target}, which is not there.")
    return f"]({path.relative_to(REPOSITORY).as_posix()}{part or ''})"


def cell_text(cell) -> str:
    """A cell as Markdown: prose as it is, code with what it printed (`#| echo: false`: that alone)."""
    if cell.cell_type == "markdown":
        return re.sub(r"\]\(([^)\s]+)\)", from_root, cell.source)
    if cell.cell_type != "code" or re.match(r"#\s*\|\s*(hide|export|default_exp)", cell.source):
        return ""
    texts = [] if "#| echo: false" in cell.source else [f"```python\n{cell.source}\n```"]
    for output in cell.get("outputs", []):
        data = output.get("data") or {}
        if "text/markdown" in data:
            texts.append("".join(data["text/markdown"]))
            continue
        text = "".join(output.get("text") or data.get("text/plain") or "")
        if text and "image/png" not in data:
            texts.append(f"```\n{text.rstrip()}\n```")
    return "\n\n".join(texts)


def main() -> int:
    text = "\n\n".join(filter(None, map(cell_text, read_nb(INDEX).cells))) + "\n"
    if "--check" not in sys.argv:
        README.write_text(text, encoding="utf-8")
        return 0
    if README.exists() and README.read_text(encoding="utf-8") == text:
        return 0
    print("README.md is not what nbs/index.ipynb says; `make readme` writes it anew.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
