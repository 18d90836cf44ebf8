"""The repository is of one piece: library and README are what the notebooks say; the notebooks are clean and small."""

import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(
    path
    for path in (REPOSITORY / "nbs").rglob("*.ipynb")
    if not {".ipynb_checkpoints", "runs", "data"} & set(path.parts)
)
MEGABYTE = 2**20


def run(*command, cwd):
    """Run a command of this environment; fail with what it printed."""
    environment = {
        name: value for name, value in os.environ.items() if name != "IN_TEST"
    }  # nbdev_export does nothing under IN_TEST
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(command, cwd=cwd, env=environment | {"PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path):
    """The notebooks in a project of their own, with no library but its hand-written `__init__.py`."""
    shutil.copytree(
        REPOSITORY / "nbs",
        tmp_path / "nbs",
        symlinks=True,
        ignore=shutil.ignore_patterns(".ipynb_checkpoints", "runs", "data"),
    )
    for name in ("settings.ini", "_quarto.yml"):
        shutil.copy(REPOSITORY / name, tmp_path)
    (tmp_path / "retinal_tl").mkdir()
    shutil.copy(REPOSITORY / "retinal_tl" / "__init__.py", tmp_path / "retinal_tl")
    return tmp_path


def modules(folder):
    """Every Python file of a library, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py"))
    }


def test_library_is_what_the_notebooks_export(copy):
    run("nbdev_export", cwd=copy)
    expected, found = modules(copy / "retinal_tl"), modules(REPOSITORY / "retinal_tl")
    assert set(found) == set(expected), "`make export` writes the library anew"
    changed = [name for name in expected if found[name] != expected[name]]
    assert not changed, f"{', '.join(changed)}: not what the notebooks say; `make export` writes them anew"


def test_notebooks_are_clean(copy):
    run("nbdev_clean", cwd=copy)
    names = [path.relative_to(REPOSITORY) for path in NOTEBOOKS]
    changed = [str(name) for name in names if (copy / name).read_bytes() != (REPOSITORY / name).read_bytes()]
    assert not changed, f"{', '.join(changed)}: not clean; `make export` cleans them"


def test_readme_is_what_the_index_says():
    run(sys.executable, "tools/build/readme.py", "--check", cwd=REPOSITORY)


def test_notebooks_are_small():
    sizes = {str(path.relative_to(REPOSITORY)): path.stat().st_size for path in NOTEBOOKS}
    assert not [name for name, size in sizes.items() if size > 2 * MEGABYTE]
    assert sum(sizes.values()) < 12 * MEGABYTE


def test_saved_outputs_hold_no_litter():
    """No folders of the day, no warnings, no progress bars."""
    litter, found = re.compile(r"/tmp/|/home/|/root/|WARNING|Warning:|Traceback|it/s\]|\d%\|"), []
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", ()):
                text = "".join(output.get("text", ())) + "".join(
                    "".join(value) for kind, value in output.get("data", {}).items() if kind.startswith("text/")
                )
                found += [f"{path.name}: {line[:100]}" for line in text.splitlines() if litter.search(line)]
    assert not found, "\n".join(found)


def test_every_notebook_is_in_the_sidebar():
    yaml = pytest.importorskip("yaml")
    sidebar = yaml.safe_load((REPOSITORY / "_quarto.yml").read_text(encoding="utf-8"))["website"]["sidebar"]["contents"]
    listed = set(re.findall(r"[\w/]+\.ipynb", str(sidebar)))
    assert listed == {path.relative_to(REPOSITORY / "nbs").as_posix() for path in NOTEBOOKS}


def test_setup_reads_settings_alone():
    text = (REPOSITORY / "setup.py").read_text(encoding="utf-8")
    assert "settings.ini" in text and "pkg_resources" not in text
    assert not (REPOSITORY / "pyproject.toml").exists()


def public_names():
    """Every public function and class of the library, as `module.name`, with the object."""
    for path in sorted((REPOSITORY / "retinal_tl").glob("[a-z]*.py")):
        module = importlib.import_module(f"retinal_tl.{path.stem}")
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if inspect.isfunction(value) or inspect.isclass(value):
                yield f"{path.stem}.{name}", value


@pytest.mark.slow
def test_every_public_name_says_what_it_is():
    assert not [name for name, value in public_names() if not inspect.getdoc(value)]


@pytest.mark.slow
def test_every_signature_can_be_shown():
    """The site evaluates annotations, so a type in quotes has to be importable where it stands."""
    problems = []
    for name, value in public_names():
        try:
            inspect.signature(value, eval_str=True)
        except NameError as error:
            problems.append(f"{name}: {error}")
        except ValueError:
            pass  # an exception class has no signature of its own
    assert not problems


def test_papermill_can_set_the_parameters_of_every_run():
    runs = sorted((REPOSITORY / "nbs").glob("run_*.ipynb"))
    assert len(runs) == 5
    for path in runs:
        tagged = [
            "".join(cell["source"]).split("\n")
            for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
            if "parameters" in cell["metadata"].get("tags", [])
        ]
        assert len(tagged) == 1 and "seed = 0" in tagged[0], (
            f"{path.name}: papermill sets parameters after the one cell that has the tag"
        )
