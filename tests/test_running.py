"""How the tests run, on small projects with our conftest.py and pytest.ini: what is left out, counted and noticed."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
MARKED = 'import pytest\npytestmark = [pytest.mark.slow, pytest.mark.jax]\nraise ImportError("imported")\n'
STARTED = {
    "tests/test_top.py": "import keras\ndef test_it(): pass\n",
    "tests/test_inside.py": "def test_it():\n    import jax\ndef test_other(): pass\n",
    "tests/test_model.py": "import pytest\n@pytest.fixture\ndef m():\n    import tensorflow\ndef test_it(m): pass\n",
}
MARKED_SINGLY = "import pytest\n@pytest.mark.slow\ndef test_it():\n    import keras\ndef test_other(): pass\n"
QUIET = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")  # Hypothesis takes a second to import


pytestmark = pytest.mark.slow


def load_runner():
    """`tools/build/test.py` as a module; Python has one called `test` itself."""
    spec = importlib.util.spec_from_file_location("runner", REPOSITORY / "tools" / "build" / "test.py")
    module = sys.modules["runner"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


runner = load_runner()


@pytest.fixture
def project(tmp_path):
    """A function that runs pytest on files, given by name, and gives its exit status and what it printed."""
    for name in ("conftest.py", "pytest.ini", "settings.ini", "tools"):
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, tmp_path / name)
    for name in ("keras", "jax", "tensorflow"):  # import at once
        (tmp_path / f"{name}.py").write_text("class utils:\n    clear_session = staticmethod(print)\n")

    def run(files, *options):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        command = [sys.executable, "-m", "pytest", *QUIET, *options]
        done = subprocess.run(command, cwd=tmp_path, env=kept | {"PYTHONPATH": ""}, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    return run


def notebook(*sources, first=""):
    """A notebook with these code cells, as text."""
    cells = [{"cell_type": "raw", "metadata": {}, "source": first}] if first else []
    cells += [
        {"cell_type": "code", "metadata": {}, "source": source, "outputs": [], "execution_count": None}
        for source in sources
    ]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def test_a_file_that_is_left_out_is_not_imported(project):
    files = {"tests/test_slow.py": MARKED, "tests/test_quick.py": "def test_it(): pass\n"}
    status, text = project(files, "-m", "not slow")
    assert status == 0 and "1 passed" in text
    assert project({}, "-m", "jax")[0] == 2 and project({}, "-m", "site")[0] == 5


def test_a_test_that_starts_an_engine_unmarked_is_noticed(project):
    status, said = project(STARTED, "--continue-on-collection-errors")
    assert status == 1 and "1 passed, 1 failed, 2 errors" in said.replace("1 failed, 1 passed", "1 passed, 1 failed")
    for place, engine in (("top.py", "keras"), ("inside.py::test_it", "jax"), ("model.py::test_it", "tensorflow")):
        assert f"tests/test_{place} starts {engine}: mark it slow." in said
    assert project({"tests/test_marked.py": MARKED_SINGLY}, "tests/test_marked.py")[0] == 0


def test_each_notebook_is_a_test(project):
    files = {
        "nbs/01_good.ipynb": notebook("a = 1", "assert a == 1"),
        "nbs/02_bad.ipynb": notebook("assert 1 == 2, 'oh dear'"),
        "nbs/run_it.ipynb": notebook("1 / 0", first="---\nskip_exec: true\n---"),
        "nbs/runs/stage1.ipynb": notebook("1 / 0"),
        "nbs/.ipynb_checkpoints/01_good.ipynb": notebook("1 / 0"),
        "nbs/_old.ipynb": notebook("1 / 0"),
    }
    status, text = project(files)
    assert status == 1 and "1 failed, 1 passed, 1 skipped" in text and "oh dear" in text, text


def test_a_notebook_is_not_executed_twice(project):
    """Where the outputs of a notebook are compared, it has been executed; and what is long begins first."""
    compared = 'import pytest\n@pytest.mark.parametrize("notebook", ["01_a"])\ndef test_saved(notebook): pass\n'
    files = {
        "nbs/01_a.ipynb": notebook("1"),
        "nbs/02_b.ipynb": notebook("1"),
        "tests/test_a.py": compared,
        "tests/test_z.py": "import pytest\npytestmark = pytest.mark.long\ndef test_it(): pass\n",
    }
    _, text = project(files, "--collect-only")
    assert [line.split("::")[0] for line in text.splitlines() if "::" in line] == [
        "tests/test_z.py",
        "tests/test_a.py",
        "nbs/02_b.ipynb",
    ]
    assert "nbs/01_a.ipynb" in project({}, "--collect-only", "nbs")[1]


@pytest.mark.parametrize(
    "status, suite, counts",
    [
        (0, dict(tests=7, failures=0, errors=0, skipped=2), (5, 0, 2)),
        (1, dict(tests=7, failures=2, errors=1, skipped=0), (4, 3, 0)),
        (3, dict(tests=7, failures=0, errors=0, skipped=0), (7, 1, 0)),  # pytest broke after the tests
        (3, None, (0, 1, 0)),  # or before
        (5, None, (0, 0, 0)),  # there was nothing to run
        (5, dict(tests=0, failures=0, errors=0, skipped=0), (0, 0, 0)),
    ],
)
def test_what_came_of_the_tests_is_counted(tmp_path, status, suite, counts):
    report = tmp_path / "report.xml"
    if suite:
        attributes = " ".join(f'{name}="{value}"' for name, value in suite.items())
        report.write_text(f"<testsuites><testsuite {attributes}/></testsuites>")
    assert runner.read_counts(report, status) == runner.Counts(*counts)


def test_the_longest_files_come_first(tmp_path):
    """What to shorten when the whole takes too long: seconds add up by file, notebooks among them."""
    cases = (("tests.test_a", 2), ("nbs.00_core.ipynb", 4), ("tests.test_a", 3.5), ("tests.test_b", 1))
    lines = "".join(f'<testcase classname="{name}" name="x" time="{seconds}"/>' for name, seconds in cases)
    report = tmp_path / "report.xml"
    report.write_text(f"<testsuites><testsuite>{lines}</testsuite></testsuites>")
    assert runner.longest_files(report, 2) == [(5.5, "tests.test_a"), (4, "nbs.00_core.ipynb")]


@pytest.fixture
def whole(tmp_path, monkeypatch, capfd):
    """A function that runs `make test` on a project with one file of tests, and gives its exit status and lines."""

    def run(text):
        for name in ("conftest.py", "pytest.ini"):
            shutil.copy(REPOSITORY / name, tmp_path)
        (tmp_path / "tests").mkdir()
        (tmp_path / "tests" / "test_it.py").write_text(text)
        subprocess.run(["git", "init", "-q", tmp_path], check=True)
        monkeypatch.setattr(runner, "REPOSITORY", tmp_path)
        monkeypatch.setattr(sys, "argv", ["test.py", "--workers", "1"])
        monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(QUIET))
        status = runner.main()
        return status, capfd.readouterr().out.splitlines()

    return run


def test_the_closing_line_adds_up_both_backends(whole):
    code = "import os, pytest\n@pytest.mark.jax\ndef test_it(): assert os.environ['KERAS_BACKEND'] == 'tensorflow'\n"
    status, lines = whole(code + "def test_other(): pass\n")
    assert status == 1 and lines[-1] == "2 passed, 1 failed"


def test_what_a_test_leaves_behind_is_noticed(whole):
    code = "from pathlib import Path\ndef test_it(): Path(__file__).with_name('left.txt').touch()\n"
    status, lines = whole(code)
    assert status == 1 and lines[-1] == "1 passed, 1 failed"
    assert "The tests have left in the repository: tests/left.txt." in lines
