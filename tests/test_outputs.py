"""The saved outputs are those of today's code: the quick notebooks are executed again and their text compared."""

import os
from pathlib import Path

import nbformat
import pytest

import outputs

REPOSITORY = Path(__file__).resolve().parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.outputs]


@pytest.mark.parametrize("notebook", outputs.QUICK)
def test_saved_outputs_are_those_of_today(notebook, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])))
    problems = outputs.differences(REPOSITORY / "nbs" / f"{notebook}.ipynb")
    assert not problems, "\n".join([*problems, f"`make outputs NOTEBOOKS={notebook}` writes them anew"])


def write(path, source, text):
    """A notebook of one cell that was saved with this output."""
    cell = nbformat.v4.new_code_cell(source, outputs=[nbformat.v4.new_output("stream", name="stdout", text=text)])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    return path


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
