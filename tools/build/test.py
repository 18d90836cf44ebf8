"""Run every test, two at a time, and close with one line: `N passed, N failed`.

    python tools/build/test.py                what `make test` runs
    python tools/build/test.py --workers 4    four at a time

It is pytest, called twice: for everything with Keras on TensorFlow, and for what is marked `jax` with Keras on JAX. For
a part, call pytest yourself: `pytest nbs/11_cbam.ipynb`, `pytest -m site`, `KERAS_BACKEND=jax pytest -m jax`. Scratch
files go to a folder that is removed at the end, and a test that leaves a file in the repository fails the whole.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
# A test that starts a process again need not wait for JAX's compiler again, nor for code that is fast to run.
JAX = {
    "KERAS_BACKEND": "jax",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
}
NOTHING_CHOSEN = 5  # exit status of pytest where no test has the mark


@dataclass(frozen=True)
class Counts:
    """What came of some tests."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)


def read_counts(report: Path, status: int) -> Counts:
    """The counts of a call of pytest, from its report and its exit status."""
    if not report.exists():
        return Counts() if status == NOTHING_CHOSEN else Counts(failed=1)
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    total, failures, errors, skipped = (
        sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    )
    failed = failures + errors
    if status not in (0, NOTHING_CHOSEN) and not failed:
        failed, total = 1, total + 1  # pytest itself broke, or was killed
    return Counts(max(total - failed - skipped, 0), failed, skipped)


def report_of(scratch: Path, marks: str) -> Path:
    """Where pytest writes what came of the tests with these marks."""
    return scratch / f"{marks or 'all'}.xml"


def longest_files(report: Path, count: int = 12) -> list[tuple[float, str]]:
    """The files whose tests took longest, with their seconds, from a report of pytest."""
    seconds: Counter[str] = Counter()
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        seconds[str(case.get("classname") or case.get("name"))] += float(case.get("time", 0))
    return [(taken, name) for name, taken in seconds.most_common(count)]


def call_pytest(scratch: Path, workers: int, marks: str = "", changes: dict[str, str] | None = None) -> Counts:
    """Run the tests with these marks in an environment that has nothing of the user's own in it."""
    report = report_of(scratch, marks)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}"]
    command += [*(["-n", str(workers)] if workers > 1 else []), *(["-m", marks] if marks else [])]
    own = {
        "KERAS_BACKEND": "tensorflow",
        "TMPDIR": str(scratch),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(scratch / "hypothesis"),
    }
    kept = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    done = subprocess.run(command, cwd=REPOSITORY, env=kept | own | (changes or {}), stdin=subprocess.DEVNULL)
    return read_counts(report, done.returncode)


def untracked() -> set[str]:
    """What lies in the repository and is not tracked, but for caches and the user's own `runs` and `data`."""
    command = ["git", "status", "--porcelain", "--untracked-files=all", "--ignored=matching"]
    try:
        listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return set()
    names = {line[3:] for line in listed.stdout.splitlines() if line[:2] in ("??", "!!")}
    return {name for name in names if not re.match(r"runs/|data/", name) and "__pycache__" not in name}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="tests at a time (default: 2)")
    workers = parser.parse_args().workers
    before, start = untracked(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="retinal_tl-tests-", ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        counts = call_pytest(scratch, workers)
        counts += call_pytest(scratch, workers, "jax", JAX | {"JAX_COMPILATION_CACHE_DIR": str(scratch / "jax")})
        for report in filter(Path.exists, (report_of(scratch, marks) for marks in ("", "jax"))):
            print(
                f"longest in {report.stem}:",
                *(f"{taken:.0f} s {name}" for taken, name in longest_files(report)),
                sep="\n  ",
            )
    if left := sorted(untracked() - before):
        print(f"The tests have left in the repository: {', '.join(left)}.")
        counts += Counts(failed=1)
    print(f"{counts.skipped} skipped, {time.monotonic() - start:.0f} s")
    print(f"{counts.passed} passed, {counts.failed} failed")
    return int(counts.failed > 0 or counts.passed == 0)


if __name__ == "__main__":
    sys.exit(main())
