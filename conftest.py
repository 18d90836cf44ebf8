"""How the tests run: every notebook is a test, what is slow can be left out, and what is long begins first.

A test that starts TensorFlow, Keras, JAX, a browser, pip or a notebook, or that takes over two seconds, is marked
`slow`; `make check` leaves it out. Where all tests of a file are slow, `pytestmark` says so at its top, and then the
file is not even imported.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent
TOOLS = REPOSITORY / "tools" / "build"
ENGINES = {"tensorflow", "keras", "jax"}  # seconds to import, so only in tests that are marked slow
NOTEBOOK_LIMIT = 30 * 60  # seconds a notebook may take; on an old and busy processor the longest takes a tenth of it
NOT_EXECUTED = 5  # exit status of a notebook that asks not to be executed

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


class NotebookFile(pytest.File):
    """A notebook of the book, as a file with one test in it."""

    def collect(self):
        yield Notebook.from_parent(self, name="notebook")


class Notebook(pytest.Item):
    """A notebook that is executed as nbdev tests it, in a process of its own and where it lies."""

    def __init__(self, **settings):
        super().__init__(**settings)
        for name in ("slow", "notebook"):
            self.add_marker(name)

    def runtest(self):
        library = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, TOOLS / "notebook.py", self.path],
            cwd=self.path.parent,
            env=os.environ | dict(PYTHONPATH=library),
            timeout=NOTEBOOK_LIMIT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        if done.returncode == NOT_EXECUTED:
            pytest.skip("it asks not to be executed")
        if done.returncode:
            pytest.fail(done.stdout, pytrace=False)

    def reportinfo(self):
        return self.path, None, self.path.relative_to(REPOSITORY).as_posix()


def pytest_collect_file(file_path, parent):
    """The notebooks that nbdev counts as the project's own, but not what papermill and readers leave among them."""
    if file_path.suffix != ".ipynb" or not file_path.is_relative_to(REPOSITORY / "nbs"):
        return None
    if re.search(r"(^|/)[._]|^(runs|data)/", file_path.relative_to(REPOSITORY / "nbs").as_posix()):
        return None
    return NotebookFile.from_parent(parent, path=file_path)


def marks_of_file(path: Path) -> set[str]:
    """The marks that `pytestmark` gives to all tests of a file, which is read and not imported."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            return set(re.findall(r"\bmark\.(\w+)", ast.unparse(node.value)))
    return set()


def pytest_ignore_collect(collection_path, config):
    """A file that `-m "not slow"`, or `-m` with a single mark, leaves out as a whole is not imported."""
    if not re.fullmatch(r"test_\w+\.py", collection_path.name):
        return None
    expression = config.option.markexpr
    if expression.isidentifier():
        return f"mark.{expression}" not in collection_path.read_text(encoding="utf-8") or None
    return ("not slow" in expression and "slow" in marks_of_file(collection_path)) or None


@pytest.hookimpl(trylast=True)  # after -m and -k have chosen
def pytest_collection_modifyitems(config, items):
    """Leave out notebooks whose outputs are compared, as that executes them; and let long files begin first."""
    names = {item.callspec.params.get("notebook") for item in items if hasattr(item, "callspec")} - {None}
    compared = {REPOSITORY / "nbs" / f"{name}.ipynb" for name in names}
    twice = [item for item in items if isinstance(item, Notebook) and item.path in compared]
    config.hook.pytest_deselected(items=twice)

    def rank(item):
        if not isinstance(item, Notebook):
            return 0 if item.get_closest_marker("long") else 1
        return 2 if item.path.parent.name == "tutorials" else 3  # a tutorial trains: it would be left alone at the end

    items[:] = sorted((item for item in items if item not in twice), key=rank)


@pytest.fixture(autouse=True, scope="module")
def fresh_session():
    """Each file begins as if Keras had just been loaded: no models of another file, layers numbered from one again."""
    if "keras" in sys.modules:
        sys.modules["keras"].utils.clear_session()


def started_by(item, before):
    """The sentence for a test, or a file of tests, that has started an engine without being marked `slow`."""
    started = sorted(ENGINES & set(sys.modules) - before)
    return f"{item.nodeid} starts {' and '.join(started)}: mark it slow." if started else ""


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    before, report = set(sys.modules), (yield)
    quick = isinstance(collector, pytest.Module) and report.passed and "slow" not in marks_of_file(collector.path)
    if quick and (problem := started_by(collector, before)):
        report.outcome, report.longrepr = "failed", problem
    return report


def watch(item):
    """Let a part of a test run, and fail where it starts an engine without being marked for it."""
    before, result = set(sys.modules), (yield)
    if not item.get_closest_marker("slow") and (problem := started_by(item, before)):
        pytest.fail(problem, pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    return (yield from watch(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    return (yield from watch(item))
