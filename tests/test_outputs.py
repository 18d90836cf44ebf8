"""The saved outputs of the notebooks are those of the code as it stands: the quick ones are executed again and their text compared."""

import importlib.util
import os
from pathlib import Path

import nbformat
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.outputs


def load_outputs():
    """`tools/outputs.py` as a module."""
    spec = importlib.util.spec_from_file_location("outputs", REPOSITORY / "tools" / "outputs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


outputs = load_outputs()


@pytest.mark.parametrize("name", outputs.QUICK)
def test_saved_outputs_are_those_of_today(name, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])))
    problems = outputs.differences(REPOSITORY / "nbs" / f"{name}.ipynb")
    assert not problems, "\n".join([*problems, f"`make outputs NOTEBOOKS={name}` writes them anew"])


def test_every_notebook_with_something_to_show_has_its_outputs():
    """A notebook that was saved without having been run shows nothing on its page."""
    bare = []
    for path in outputs.notebook_files([]):
        cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        says = [
            cell
            for cell in cells
            if "print(" in cell.source
            and "def " not in cell.source
            and "subprocess" not in cell.source
            and not cell.source.startswith("#|")
        ]
        if says and not any(cell.outputs for cell in cells):
            bare.append(path.relative_to(REPOSITORY).as_posix())
    assert not bare, f"{', '.join(bare)}: `make outputs` runs them"


def write(path, source, text):
    """A notebook of one cell that was saved with this output."""
    cell = nbformat.v4.new_code_cell(source, outputs=[nbformat.v4.new_output("stream", name="stdout", text=text)])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    return path


def test_pieces_of_what_was_printed_are_one():
    printed = [
        nbformat.v4.new_output("stream", name=name, text=text)
        for name, text in (("stdout", "one "), ("stderr", "warning"), ("stdout", "line\n"))
    ]
    picture = nbformat.v4.new_output("display_data", data={"text/plain": "a picture"})
    last = nbformat.v4.new_output("stream", name="stdout", text="end")
    assert [output.get("text") for output in outputs.joined([*printed, picture, last])] == ["one line\n", None, "end"]


def test_a_stale_output_is_noticed_and_times_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "REPOSITORY", tmp_path)
    path = write(
        tmp_path / "a.ipynb",
        "print('old value', 2.5, 'in 3 s, in /tmp/other/place')",
        "old value 2.4 in 12 s, in /tmp/some/place\n",
    )
    assert len(problems := outputs.differences(path)) == 1 and "2.5" in problems[0]
    path = write(
        tmp_path / "b.ipynb",
        "print('value', 2.4, 'in 3 s, in /tmp/other/place')",
        "value 2.4 in 12 s, in /tmp/some/place\n",
    )
    assert outputs.differences(path) == []
