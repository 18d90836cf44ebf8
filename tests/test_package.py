"""What a stranger gets: a wheel and an sdist that build, and a wheel that works alone in a clean environment."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.package]


def run(*command, cwd, **variables):
    """Run a command away from the repository; give what it printed, or fail with it."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "IN_TEST", "KERAS_BACKEND")}
    environment = kept | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"} | variables
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what building needs: building leaves files beside setup.py."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("settings.ini", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder)
    shutil.copytree(REPOSITORY / "retinal_tl", folder / "retinal_tl", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def distributions(source, tmp_path_factory):
    """The sdist, and the wheel that is built from the sdist, as a packager does it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, source, cwd=folder)
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def clean_python(distributions, tmp_path_factory):
    """The Python of an environment that holds the wheel and what it asks for, nothing else."""
    folder = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "-qq", distributions[1], cwd=folder)
    return python


def test_sdist_holds_what_building_needs(distributions):
    with tarfile.open(distributions[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "settings.ini",
        "setup.py",
        "README.md",
        "LICENSE",
        "retinal_tl/__init__.py",
        "retinal_tl/images.py",
    } <= names


def test_wheel_holds_the_library_alone(distributions):
    with zipfile.ZipFile(distributions[1]) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"retinal_tl"}
    modules = {path.name for path in (REPOSITORY / "retinal_tl").glob("*.py")}
    assert modules <= {Path(name).name for name in names}


def test_wheel_holds_the_licences_of_code_and_weights(distributions):
    """CC BY asks that its text, the authors' names and what was changed travel with the weights."""
    texts = ("LICENSE", "retinal_tl/weights/LICENSE-CC-BY-4.0.txt", "retinal_tl/weights/ATTRIBUTION.md")
    with zipfile.ZipFile(distributions[1]) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()
        beside = {name: archive.read(name).decode() for name in texts[1:]}
    assert {f"License-File: {name}" for name in texts} <= set(metadata.splitlines())
    for text in texts:
        assert any(name.endswith(f"licenses/{text}") for name in names), text
    assert "Section 8 -- Interpretation." in beside[texts[1]] and "Porwal" in beside[texts[2]]
    assert "Apache-2.0 AND CC-BY-4.0" in metadata


def test_clean_environment_holds_no_training_or_notebook_tools(clean_python, tmp_path):
    listed = run(clean_python, "-m", "pip", "list", "--format=freeze", cwd=tmp_path).lower()
    names = {line.split("==")[0].replace("-", "_") for line in listed.splitlines()}
    assert "retinal_tl" in names
    assert not names & {
        "tensorflow",
        "keras",
        "jax",
        "nbdev",
        "fastcore",
        "execnb",
        "jupyterlab",
        "ipykernel",
        "papermill",
        "matplotlib",
    }


def test_library_imports_in_clean_environment(clean_python, tmp_path):
    code = (
        "import sys, retinal_tl; from retinal_tl import classify, load_run, segment\n"
        "import retinal_tl.command\n"
        "assert 'site-packages' in retinal_tl.__file__, retinal_tl.__file__\n"
        "print(*sorted({'tensorflow', 'keras', 'nbdev', 'fastcore', 'matplotlib'} & set(sys.modules)))"
    )
    assert run(clean_python, "-c", code, cwd=tmp_path).strip() == ""


def test_command_answers_in_clean_environment(clean_python, tmp_path):
    command = clean_python.with_name("retinal_tl")
    assert run(command, "--version", cwd=tmp_path).split()[-1] in (REPOSITORY / "settings.ini").read_text(
        encoding="utf-8"
    )
    for words in ([], ["segment"], ["classify"], ["check-data"], ["run"]):
        assert "usage" in run(command, *words, "--help", cwd=tmp_path)


def test_it_works_without_a_network(clean_python, tmp_path):
    """What the workflow does with the image of the Containerfile, where nothing can build one."""
    alone = ["unshare", "--user", "--map-root-user", "--net"]
    can = shutil.which("unshare") and subprocess.run([*alone, "true"], capture_output=True).returncode == 0
    command = [*(alone if can else []), clean_python.with_name("retinal_tl")]
    run(*command, "example", "eye.png", cwd=tmp_path)
    run(*command, "segment", "eye.png", "--model", "builtin-fast", "--output", "found", cwd=tmp_path)
    assert {"report.csv", "report.html"} <= {path.name for path in (tmp_path / "found").iterdir()}


def test_training_without_its_extra_says_what_to_install(clean_python, tmp_path):
    done = subprocess.run(
        [str(clean_python.with_name("retinal_tl")), "run", "stage2", "--no-notebook"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=400,
    )
    assert done.returncode in (1, 2), done.stdout + done.stderr
    assert "retinal_tl[train]" in done.stderr and "Traceback" not in done.stderr, done.stderr
