"""Write the saved outputs of the notebooks anew, or compare them with what the code gives today.

    python tools/build/outputs.py                      execute every notebook and keep what it gives
    python tools/build/outputs.py tutorials 21_metrics those whose path holds one of these texts
    python tools/build/outputs.py --check 21_metrics   change nothing; say which text outputs differ
    python tools/build/outputs.py run_stage1           the runs too, at their presets, if they are named (minutes)

A notebook is executed where it lies, by the kernel of this environment; a run in a temporary folder. What goes to the
error stream is not kept, and a picture over 150 KB is made lighter. Text is compared after times and folders of the day
are taken out and decimals cut to two; pictures are not compared.
"""

import argparse
import base64
import io
import os
import re
import sys
import tempfile
from itertools import zip_longest
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
NOTEBOOKS = REPOSITORY / "nbs"
MOST_BYTES = 100_000  # of a picture
QUICK = (
    "07_datasets",
    "04_patches",
    "24_cards",
    "21_metrics",
    "tutorials/reading_the_figures",
    "howto/choose_threshold",
)  # compared by the tests
VARIES = [
    (r"\b\d+(\.\d+)? ?(ms|s|seconds|minutes)\b", "TIME"),
    (r"0x[0-9a-f]{6,}", "ADDRESS"),
    (r"(/tmp|/var/folders)/[^\s'\")]*", "FOLDER"),
    (r"-[0-9a-f]{8}\b", "-HASH"),
    (r"\x1b\[[0-9;]*m", ""),
    (r"(\d\.\d{2})\d+", r"\1"),
]


def notebook_files(texts: list[str]) -> list[Path]:
    """The notebooks whose path holds one of the texts, or all but the runs."""
    paths = [path.relative_to(NOTEBOOKS) for path in sorted(NOTEBOOKS.rglob("*.ipynb"))]
    paths = [path for path in paths if not {".ipynb_checkpoints", "runs", "data"} & set(path.parts)]
    if not texts:
        return [NOTEBOOKS / path for path in paths if not path.name.startswith("run_")]
    return [NOTEBOOKS / path for path in paths if any(text in path.as_posix() for text in texts)]


def is_run(path: Path) -> bool:
    """A notebook for papermill: not executed by the tests, and from a folder of its own, since it writes runs."""
    return path.name.startswith("run_")


def lighter(picture: str) -> str:
    """A PNG (base64) of at most `MOST_BYTES`: with few colors, and smaller if that is not enough."""
    if len(picture) * 3 // 4 <= MOST_BYTES:
        return picture
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    for share in (1, 0.8, 0.65, 0.5, 0.35):
        smaller = (
            image.resize((round(image.width * share), round(image.height * share)), Image.Resampling.LANCZOS)
            if share < 1
            else image
        )
        file = io.BytesIO()
        smaller.quantize(128, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        if file.tell() <= MOST_BYTES:
            break
    return base64.b64encode(file.getvalue()).decode()


def execute(path: Path):
    """The notebook with the outputs of today, those of the error stream left out."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    skipped = "skip_exec: true" in "".join(cell.source for cell in notebook.cells if cell.cell_type == "raw")
    if skipped and not is_run(path):
        return notebook
    left_out = [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and re.search(r"^#\s*\|\s*eval:\s*false", cell.source, re.M)
    ]
    sources = [cell.source for cell in left_out]
    for cell in left_out:
        cell.source = ""
    with tempfile.TemporaryDirectory() as folder:
        where = folder if is_run(path) else path.parent
        NotebookClient(
            notebook,
            timeout=1800,
            kernel_name="python3",
            resources={"metadata": {"path": str(where)}},
            record_timing=False,
        ).execute()
    for cell, source in zip(left_out, sources):
        cell.source = source
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs = joined(cell.outputs)
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = lighter(output.data["image/png"])
    return notebook


def joined(outputs: list) -> list:
    """The outputs without the error stream, and what was printed in pieces as one: where a kernel cuts it is chance."""
    whole = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        if whole and output.get("name") == whole[-1].get("name") == "stdout":
            whole[-1] = type(output)(whole[-1] | dict(text="".join(whole[-1]["text"]) + "".join(output["text"])))
        else:
            whole.append(output)
    return whole


def text_of(cell) -> str:
    """What a code cell says in text, without what differs from run to run."""
    texts = []
    for output in joined(cell.get("outputs", [])):
        data = output.get("data", {})
        if "image/png" in data:
            continue
        texts.append("".join(output.get("text") or data.get("text/markdown") or data.get("text/plain") or ""))
    text = "\n".join(part.rstrip() for part in texts)
    for pattern, name in VARIES:
        text = re.sub(pattern, name, text)
    return text.strip()


def differences(path: Path) -> list[str]:
    """A sentence for each cell whose text is not what it was when it was saved."""
    import nbformat

    saved, found = [
        [cell for cell in notebook.cells if cell.cell_type == "code"]
        for notebook in (nbformat.read(path, as_version=4), execute(path))
    ]
    problems = []
    for old, new in zip_longest(saved, found):
        was, now = text_of(old), text_of(new)
        if was == now:
            continue
        line, other = next(
            pair
            for pair in zip_longest(was.splitlines(), now.splitlines(), fillvalue="(nothing)")
            if pair[0] != pair[1]
        )
        problems.append(
            f"{path.relative_to(REPOSITORY)}: after {old.source.splitlines()[0][:60]!r} it says {other[:120]!r}"
            f" and the saved output {line[:120]!r}."
        )
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="only notebooks whose path holds one of these")
    parser.add_argument("--check", action="store_true", help="compare and change nothing")
    arguments = parser.parse_args()
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", TF_ENABLE_ONEDNN_OPTS="1")
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    paths, problems = notebook_files(arguments.texts), []
    if not paths:
        parser.error(f"no notebook's path holds {' or '.join(arguments.texts)}")
    for path in paths:
        if arguments.check:
            problems += differences(path)
        else:
            write(path)
        print(path.relative_to(REPOSITORY), flush=True)
    for problem in problems:
        print(problem)
    return int(bool(problems))


def write(path: Path) -> None:
    """Execute and save a notebook, clean as nbdev leaves it."""
    import nbformat
    from nbdev.clean import nbdev_clean

    nbformat.write(execute(path), path)
    nbdev_clean(str(path), clear_all=False)


if __name__ == "__main__":
    sys.exit(main())
