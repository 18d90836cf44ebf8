"""How time and memory are measured: runs that alternate, medians, and what the machine was."""

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = (
    "numpy",
    "opencv-python-headless",
    "onnxruntime",
    "openvino",
    "scikit-image",
    "scikit-learn",
    "torch",
    "monai",
    "segmentation_models_pytorch",
    "keras",
    "tensorflow",
    "jax",
)


@dataclass(frozen=True)
class Row:
    """One comparison. A ratio is the other's time over ours, or what it says; both are medians over rounds."""

    part: str
    what: str
    ours: float  # seconds, or what `unit` says
    other: float | None = None
    against: str = ""  # what the other is
    ratio: float | None = None  # median over rounds of the ratio within a round
    low: float | None = None  # smallest and largest ratio of a round
    high: float | None = None
    cpu_ratio: float | None = None  # the same of processor time, which other work on the machine changes less
    target: float | None = None
    at_least: bool = True  # the ratio is to be at least the target; else at most
    unit: str = "s"
    checked: str = ""  # how it was made sure that both do the same

    @property
    def met(self) -> bool | None:
        """Is the target met? None without one."""
        if self.target is None or self.ratio is None:
            return None
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock and of the processor, all threads together."""
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - cpu


def alternate(ours: Callable[[], object], other: Callable[[], object], rounds: int) -> dict:
    """Ours and the other's work by turns, after one of each that does not count: medians, ratios and their spread."""
    ours(), other()
    pairs = [(timed(ours), timed(other)) if i % 2 else (timed(other), timed(ours))[::-1] for i in range(rounds)]
    ratios = [theirs[0] / mine[0] for mine, theirs in pairs]
    return dict(
        ours=statistics.median(mine[0] for mine, _ in pairs),
        other=statistics.median(theirs[0] for _, theirs in pairs),
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        cpu_ratio=statistics.median(theirs[1] / max(mine[1], 1e-9) for mine, theirs in pairs),
    )


# A new process inherits the memory mark of the one that starts it, so a small one stands in between.
LAUNCHER = """
import json, resource, subprocess, sys, time
begun = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
used, scale = resource.getrusage(resource.RUSAGE_CHILDREN), 1 if sys.platform == "darwin" else 1024
seconds, cpu = time.perf_counter() - begun, used.ru_utime + used.ru_stime
about = dict(seconds=seconds, cpu=cpu, memory=used.ru_maxrss * scale / 1e9)
print(json.dumps(about | dict(status=done.returncode, said=done.stderr[-500:])))
"""


def child(command: Sequence[str], code: Path = REPOSITORY) -> dict[str, float]:
    """Seconds, processor seconds and most memory (GB) of a command over the library in `code`, which must succeed."""
    environment = os.environ | dict(PYTHONPATH=str(code))
    launched = [sys.executable, "-S", "-c", LAUNCHER, *command]
    done = subprocess.run(launched, env=environment, cwd=code, stdout=subprocess.PIPE, check=True)
    used = json.loads(done.stdout)
    if used["status"]:
        raise RuntimeError(f"{' '.join(command)} failed: {used['said']}")
    return used


INSTRUCTIONS = {"avx512f": "AVX-512", "avx2": "AVX2"}  # the widest first; a name alone does not tell


def _processor() -> dict[str, str]:
    """What Linux says of the processor, by name; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def machine() -> dict[str, object]:
    """What was measured on."""
    said = _processor()
    processor = said.get("model name") or platform.processor() or platform.machine()
    widest = [name for flag, name in INSTRUCTIONS.items() if flag in said.get("flags", "").split()]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True)
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return dict(
        processor=processor,
        instructions=widest[0] if widest else "",
        cores=os.cpu_count(),
        system=platform.system(),
        python=platform.python_version(),
        load_before=load,
        commit=commit.stdout.strip(),
        versions=versions,
    )


def table(rows: Sequence[Row]) -> str:
    """The rows for people."""
    lines = []
    for part in dict.fromkeys(row.part for row in rows):
        lines += ["", part, f"  {'':46} {'ours':>9} {'other':>9}  ratio (low to high; CPU), target"]
        for row in (row for row in rows if row.part == part):
            other = "" if row.other is None else f"{row.other:9.3f}"
            line = f"  {row.what:46.46} {row.ours:9.3f} {other:>9} {row.unit:3}"
            if row.ratio is not None:
                spread = "" if row.low is None else f" ({row.low:.2f} to {row.high:.2f}"
                cpu = "" if row.cpu_ratio is None else f"; {row.cpu_ratio:.2f}"
                line += f" {row.ratio:5.2f}{spread + cpu + ')' if spread else ''}"
            if row.target is not None:
                sign = ">=" if row.at_least else "<="
                line += f", {sign} {row.target:g} {'met' if row.met else 'MISSED'}"
            lines.append(line)
            if row.against:
                lines.append(f"      against {row.against}; {row.checked}")
    return "\n".join(lines[1:])


def bars(rows: Sequence[Row], width: int = 40) -> str:
    """The ratios as bars; | is the target."""
    shown = [row for row in rows if row.ratio is not None]
    most = max([max(row.ratio, row.target or 0) for row in shown], default=1)
    scale = lambda ratio: round(min(1, ratio / min(most, 25)) * width)
    lines = []
    for row in shown:
        drawn = list("#" * scale(row.ratio)) + [" "] * (width + 1 - scale(row.ratio))
        if row.target is not None:
            drawn[scale(row.target)] = "|"
        lines.append(f"{row.what:46.46} {''.join(drawn)} {row.ratio:.2f}")
    return "\n".join(lines)


def write(path: Path, about: dict, rows: Sequence[Row], skipped: dict[str, str]) -> None:
    """All of it as JSON; other parts that the file holds stay, with when and on what they were measured."""
    earlier = (
        json.loads(path.read_text(encoding="utf-8")) if path.exists() else dict(rows=[], machine=dict(versions={}))
    )
    known, versions = earlier["rows"], earlier["machine"]["versions"] | about["machine"]["versions"]
    parts = {row.part for row in rows}
    when = dict(measured=about["measured"], commit=about["machine"]["commit"], load=about["machine"]["load_before"])
    new = [asdict(row) | dict(met=row.met, quick=about["quick"], **when) for row in rows]
    about = about | dict(machine=about["machine"] | dict(versions=versions))
    kept = dict(about, rows=[row for row in known if row["part"] not in parts] + new, skipped=skipped)
    rounded = json.loads(json.dumps(kept), parse_float=lambda text: float(f"{float(text):.4g}"))
    path.write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")
