"""The repository is of one piece: library and README are what the notebooks say; the notebooks are clean and small."""

import ast
import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(
    path
    for path in (REPOSITORY / "nbs").rglob("*.ipynb")
    if not {".ipynb_checkpoints", "runs", "data"} & set(path.relative_to(REPOSITORY).parts)
)
MEGABYTE = 2**20
SETTINGS = ConfigParser(delimiters=["="])
SETTINGS.read(REPOSITORY / "settings.ini", encoding="utf-8")
WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in (REPOSITORY / ".github" / "workflows").glob("*.yml")
}


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
def names_for_checkers(module):
    """What a module imports under `if TYPE_CHECKING`, imported."""
    found: dict = {}
    for node in ast.parse(inspect.getsource(module)).body if module else ():
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            exec("\n".join(map(ast.unparse, node.body)), found)
    return found


@pytest.mark.slow
def test_every_signature_can_be_shown():
    """The site evaluates annotations, so a type in quotes has to be importable where it stands."""
    problems = []
    for name, value in public_names():
        module = sys.modules.get(getattr(value, "__module__", ""), None)
        try:
            inspect.signature(value, eval_str=True, locals=names_for_checkers(module))
        except NameError as error:
            problems.append(f"{name}: {error}")
        except ValueError:
            pass  # an exception class has no signature of its own
    assert not problems


def test_papermill_can_set_the_parameters_of_every_run():
    runs = sorted((REPOSITORY / "nbs").glob("run_*.ipynb"))
    assert len(runs) == 7
    for path in runs:
        tagged = [
            "".join(cell["source"]).split("\n")
            for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
            if "parameters" in cell["metadata"].get("tags", [])
        ]
        assert len(tagged) == 1 and "seed = 0" in tagged[0], (
            f"{path.name}: papermill sets parameters after the one cell that has the tag"
        )


def requirements(*groups):
    """The requirements of these groups of settings.ini."""
    return [Requirement(one) for group in groups for one in SETTINGS["DEFAULT"][group].split()]


def constraints():
    """The versions that were tried, by name; each line of the file gives exactly one."""
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tried = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"==[\w.]+", str(one.specifier)) for one in tried)
    versions = {canonicalize_name(one.name): str(one.specifier)[2:] for one in tried}
    assert len(versions) == len(tried), "a name is there twice"
    return versions


def test_every_requirement_was_tried_in_a_version_that_it_allows():
    tried = constraints()
    for one in requirements("requirements", "train_requirements", "dicom_requirements", "dev_requirements"):
        name = canonicalize_name(one.name)
        assert name in tried, f"{one.name}: `make upgrade` notes the versions that are installed in constraints.txt"
        assert tried[name] in one.specifier, f"constraints.txt has {one.name} {tried[name]}, settings.ini wants {one}"


def test_make_install_takes_the_constraints():
    text = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^\$\(INSTALLED\): .*\bconstraints\.txt\b", text, re.M), "a new constraint is installed"
    assert re.search(r"pip install .*-c constraints\.txt", text)


def test_the_citation_has_the_version_of_the_settings():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation), "what the citation file format requires"
    assert citation["version"] == SETTINGS["DEFAULT"]["version"]
    authors = [*citation["authors"], *citation["preferred-citation"]["authors"]]
    assert all("name" in author or "family-names" in author for author in authors)


def test_forms_for_issues_are_whole():
    for path in (REPOSITORY / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        ids = [field["id"] for field in form.get("body", ()) if "id" in field]
        assert len(ids) == len(set(ids))
        assert path.stem == "config" or {"name", "description", "body"} <= set(form), path.name


def test_the_workflows_check_every_python_and_both_systems():
    assert set(WORKFLOWS) == {"docs", "release", "test"} and all("jobs" in one for one in WORKFLOWS.values())
    check, whole = (WORKFLOWS["test"]["jobs"][name] for name in ("check", "test"))
    assert check["strategy"]["matrix"] == dict(system=["ubuntu-latest", "macos-latest"], python=["3.11", "3.13"])
    assert check["runs-on"] == "${{ matrix.system }}" and check["steps"][-1] == dict(run="make check")
    assert whole["strategy"]["matrix"] == dict(python=["3.11", "3.12", "3.13"])
    assert whole["steps"][-1] == dict(run="bash .ci/run")
    setup = (REPOSITORY / "setup.py").read_text(encoding="utf-8")
    assert all(f'"{one}"' in setup for one in whole["strategy"]["matrix"]["python"]), "the classifiers name the same"


def test_a_newer_push_ends_the_run_of_the_older():
    concurrency = WORKFLOWS["test"]["concurrency"]
    assert concurrency["cancel-in-progress"] is True
    assert "github.ref" in concurrency["group"], "another branch's run goes on"


def test_dependabot_looks_at_packages_and_actions():
    updates = yaml.safe_load((REPOSITORY / ".github" / "dependabot.yml").read_text(encoding="utf-8"))["updates"]
    found = {one["package-ecosystem"]: one for one in updates}
    assert set(found) == {"pip", "github-actions"}
    assert all(one["schedule"]["interval"] == "weekly" for one in found.values())
    ignored = {one["dependency-name"] for one in found["pip"]["ignore"]}
    held = {
        one.name
        for one in requirements("dev_requirements")
        if "nbdev" in one.name or one.name in ("execnb", "fastcore")
    }
    assert ignored == held, "nbdev stays where it is, and what it stands on"


def test_commits_and_make_check_look_at_the_same():
    """Style, types, the library: each is part of both."""
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    entries = {hook["id"]: hook["entry"] for hook in hooks}
    recipe = re.search(r"^check:.*\n((?:\t.+\n)+)", makefile, re.M)[1]
    for command in ("ruff check", "ruff format", "mypy", "pytest"):
        assert f"$(BIN)/{command}" in recipe or f"-m {command}" in recipe
    assert {"ruff-check", "ruff-format", "mypy", "nbdev-clean", "nbdev-export", "readme"} == set(entries)
    scripts = {entry.split()[1] for entry in entries.values() if entry.startswith("python ")}
    assert all((REPOSITORY / script).exists() for script in scripts)


def test_scripts_that_are_named_are_there():
    """The folder of a script may change; whoever names it is to follow. Results keep the command of their day."""
    named = re.compile(r"\btools/[\w/]+\.py\b")
    files = [*NOTEBOOKS, *REPOSITORY.glob("*.md"), *(REPOSITORY / "tools").rglob("*.py"), REPOSITORY / "Makefile"]
    found = {(path.name, name) for path in files for name in named.findall(path.read_text(encoding="utf-8"))}
    assert len(found) > 10
    assert not [f"{file}: {name}" for file, name in found if not (REPOSITORY / name).exists()]


def test_versions_are_audited_and_releases_attested():
    audit = [step.get("run", "") for step in WORKFLOWS["test"]["jobs"]["audit"]["steps"]]
    assert any(line.startswith("pip-audit ") and "constraints.txt" in line for line in audit)
    release = WORKFLOWS["release"]["jobs"]["release"]
    assert release["permissions"] == {"contents": "read", "id-token": "write", "attestations": "write"}
    used = [step.get("uses", "").partition("@")[0] for step in release["steps"]]
    attested = {"actions/attest-build-provenance", "actions/attest-sbom"}
    assert attested <= set(used) and used[-1] == "pypa/gh-action-pypi-publish", "what is attested is what is published"
    assert not [
        name for name in ("docs", "test", "release") if WORKFLOWS[name]["permissions"].get("contents") != "read"
    ]


def test_the_container_is_small_has_no_rights_and_is_tried():
    lines = (REPOSITORY / "Containerfile").read_text(encoding="utf-8").replace("\\\n", "").splitlines()
    steps = [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if re.match("[A-Z]+ ", line)]
    assert all(re.search(r"python:3\.1[123]-slim", value) for name, value in steps if name == "FROM")
    last = dict(steps[[name for name, _ in steps].index("FROM", 1) :])
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last["USER"]), "a number that is not root's"
    command = SETTINGS["DEFAULT"]["console_scripts"].partition("=")[0]
    assert json.loads(last["ENTRYPOINT"]) == [f"/opt/retinal_tl/bin/{command}"]
    sent = set(re.findall(r"^!(\S+)", (REPOSITORY / ".dockerignore").read_text(encoding="utf-8"), re.M))
    copied = {one for name, value in steps if name == "COPY" and "--from" not in value for one in value.split()[:-1]}
    assert copied == sent and all((REPOSITORY / one).exists() for one in copied)
    tried = "\n".join(step.get("run", "") for step in WORKFLOWS["test"]["jobs"]["container"]["steps"])
    assert "docker build --file Containerfile" in tried and "retinal_tl segment" in tried
    assert "--network none" in WORKFLOWS["test"]["jobs"]["container"]["env"]["RUN"]
