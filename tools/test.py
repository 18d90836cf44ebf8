"""Run every test, two jobs at a time, and close with one line: `N passed, N failed`.

    python tools/test.py                     all parts
    python tools/test.py notebooks jax       some parts
    python tools/test.py notebooks -k 10_    some parts, those whose name holds a text

The parts: `tests` (pytest on tests/, Keras on TensorFlow), `jax` (models and training again, Keras on JAX),
`package` (wheel, sdist and clean installs), `site` (built, its links followed, its pages opened), `outputs` (the fast notebooks print what is saved)
and `notebooks` (each notebook is one test, but for those that `outputs` has executed). A job is a process of its own,
and what it prints is shown only if something in it failed. Scratch files go to a folder that is removed at the end.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from outputs import QUICK

REPOSITORY = Path(__file__).resolve().parent.parent
PARTS = ("tests", "jax", "package", "site", "outputs", "notebooks")
JAX_TESTS = ("tests/test_models.py", "tests/test_training.py", "tests/test_gradcam.py")
LONG_TESTS = (
    "studies",
    "runs",
    "models",
    "builtin",
    "export",
    "training",
)  # a job each, so that no core is left with the last long one
TIME_LIMIT = 45 * 60  # seconds a job may take; on an old and busy processor the longest takes a third of it
SKIPPED = 5  # exit status of a notebook that asks not to be executed


@dataclass
class Job:
    """One process, and what is known of it when it has ended."""

    name: str
    command: list[str]
    backend: str = "tensorflow"
    report: Path | None = None  # where pytest writes its counts; None: a notebook, judged by its exit status
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0
    output: str = field(default="", repr=False)


def pytest_job(name: str, scratch: Path, arguments: list[str], backend: str = "tensorflow") -> Job:
    """A job that runs pytest with these arguments."""
    report = scratch / f"{name}.xml"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", *arguments]
    return Job(name, command, backend, report)


def notebook_files() -> list[Path]:
    """The notebooks that nbdev counts as the project's own."""
    from nbdev.doclinks import nbglob

    return sorted(
        path.resolve() for path in nbglob(REPOSITORY / "nbs", as_path=True, skip_folder_re=r"^([_.]|runs$|data$)")
    )


def plan(parts: list[str], scratch: Path, text: str) -> Iterator[Job]:
    """The jobs of these parts, the longest first, so that both cores stay busy to the end."""
    backend_tests = [name for name in JAX_TESTS if (REPOSITORY / name).exists()]
    if "jax" in parts and backend_tests:
        yield pytest_job("jax", scratch, backend_tests, "jax")
    if "tests" in parts:
        files = [f"tests/test_{name}.py" for name in LONG_TESTS]
        for name, file in zip(LONG_TESTS, files):
            yield pytest_job(f"tests of {name}", scratch, ["-m", "not package and not site and not outputs", file])
        yield pytest_job(
            "tests",
            scratch,
            ["-m", "not package and not site and not outputs", "tests", *(f"--ignore={file}" for file in files)],
        )
    if "package" in parts:
        yield pytest_job("package", scratch, ["-m", "package", "tests/test_package.py"])
    if "site" in parts:
        yield pytest_job("site", scratch, ["-m", "site", "tests/test_site.py"])
    if "outputs" in parts:
        yield pytest_job("outputs", scratch, ["-m", "outputs", "tests/test_outputs.py"])
    if "notebooks" in parts:
        compared = (
            {REPOSITORY / "nbs" / f"{name}.ipynb" for name in QUICK} if "outputs" in parts else set()
        )  # those are executed there
        for path in notebook_files():
            if text in path.name and path not in compared:
                yield Job(str(path.relative_to(REPOSITORY)), [sys.executable, __file__, "--notebook", str(path)])


def environment(job: Job, scratch: Path) -> dict[str, str]:
    """The environment of a job: its Keras backend, quiet libraries, scratch files out of the repository."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    changes = dict(
        KERAS_BACKEND=job.backend,
        TF_ENABLE_ONEDNN_OPTS="1",
        TF_CPP_MIN_LOG_LEVEL="3",
        PATH=path,
        TMPDIR=str(scratch),
        HYPOTHESIS_STORAGE_DIRECTORY=str(scratch / "hypothesis"),
    )
    if (
        job.backend == "jax"
    ):  # a test that starts a process again need not wait for the compiler again, nor for code that is fast to run
        changes |= dict(
            JAX_COMPILATION_CACHE_DIR=str(scratch / "jax"),
            JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
            JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
            XLA_FLAGS="--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
        )
    kept = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    return kept | changes


def run_job(job: Job, scratch: Path) -> Job:
    """Run a job to its end or its time limit, and count."""
    start = time.monotonic()
    process = subprocess.Popen(
        job.command,
        cwd=REPOSITORY,
        env=environment(job, scratch),
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        job.output = process.communicate(timeout=TIME_LIMIT)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        job.output = process.communicate()[0] + f"\nstopped after {TIME_LIMIT} seconds\n"
    job.seconds = time.monotonic() - start
    count(job, process.returncode)
    return job


def count(job: Job, status: int) -> None:
    """Set the counts of a job that has ended with this exit status."""
    if job.report is None:
        job.passed, job.failed, job.skipped = int(status == 0), int(status not in (0, SKIPPED)), int(status == SKIPPED)
        return
    if job.report.exists():
        suites = list(ElementTree.parse(job.report).getroot().iter("testsuite"))
        total, failures, errors, job.skipped = (
            sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
        )
        job.failed = failures + errors
        job.passed = max(total - job.failed - job.skipped, 0)
    if status not in (0, 5) and not job.failed:
        job.failed = 1  # pytest itself broke, or was killed


def run_notebook(path: Path) -> int:
    """Execute one notebook as nbdev tests it; the exit status says how it went."""
    from nbdev.config import get_config
    from nbdev.test import test_nb

    settings = get_config(path=REPOSITORY)
    os.chdir(path.parent)
    succeeded, seconds = test_nb(path, skip_flags=settings.tst_flags.split(), basepath=REPOSITORY)
    if succeeded and seconds == 0:
        return SKIPPED
    return int(not succeeded)


def untracked() -> set[str]:
    """What lies in the repository and is not tracked, but for caches and the places of the user's own, `runs` and `data`."""
    command = ["git", "status", "--porcelain", "--untracked-files=all", "--ignored=matching"]
    try:
        listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return set()
    names = {line[3:] for line in listed.stdout.splitlines() if line[:2] in ("??", "!!")}
    return {name for name in names if not re.match(r"runs/|data/", name) and "__pycache__" not in name}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("-k", default="", metavar="TEXT", help="only notebooks whose name holds this")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="jobs at a time (default: 2)")
    parser.add_argument("--notebook", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.notebook:
        return run_notebook(arguments.notebook)
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")

    before, start, jobs = untracked(), time.monotonic(), []
    with (
        tempfile.TemporaryDirectory(prefix="retinal_tl-tests-") as folder,
        ThreadPoolExecutor(arguments.workers) as pool,
    ):
        scratch = Path(folder)
        running = [
            pool.submit(run_job, job, scratch) for job in plan(arguments.parts or list(PARTS), scratch, arguments.k)
        ]
        for future in as_completed(running):
            job = future.result()
            jobs.append(job)
            if job.failed:
                print(f"{'-' * 30} {job.name}\n{job.output.rstrip()}\n{'-' * 30}")
            print(
                f"{job.name:32} {job.passed} passed, {job.failed} failed, {job.skipped} skipped, {job.seconds:.0f} s",
                flush=True,
            )
    passed, failed = sum(job.passed for job in jobs), sum(job.failed for job in jobs)
    if left := sorted(untracked() - before):
        print(f"The tests have left in the repository: {', '.join(left)}.")
        failed += 1
    print(f"{sum(job.skipped for job in jobs)} skipped, {time.monotonic() - start:.0f} s")
    print(f"{passed} passed, {failed} failed")
    return int(failed > 0 or passed == 0)


if __name__ == "__main__":
    sys.exit(main())
