"""A training step: ours on TensorFlow and on JAX, and the equal network in PyTorch, each in a process of its own."""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measure import REPOSITORY, Row, timed
from plan import Plan

KINDS = {"stage 1": "stage1", "stage 2, frozen": "frozen", "stage 2, finetune": "finetune"}


@dataclass
class Contender:
    """A process that makes training steps when it is asked to."""

    process: subprocess.Popen
    losses: list[float]  # of its first steps

    def step(self, count: int) -> tuple[float, float]:
        """Seconds and processor seconds of a step."""
        answer = _say(self.process, count)
        return answer["seconds"] / count, answer["cpu"] / count


def _say(process: subprocess.Popen, steps: int) -> dict:
    """What a contender answers."""
    assert process.stdin and process.stdout
    process.stdin.write(f"{steps}\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args} ended")
    return json.loads(line)


@contextmanager
def contender(backend: str, kind: str, folder: Path) -> Iterator[Contender]:
    """A process with the network, and its first three losses."""
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | dict(PYTHONPATH=os.pathsep.join(paths), TF_CPP_MIN_LOG_LEVEL="3")
    environment |= {} if backend == "torch" else dict(KERAS_BACKEND=backend)
    command = [sys.executable, str(Path(__file__).with_name("contender.py")), backend, kind, str(folder)]
    with open(folder / f"{backend}.txt", "w+", encoding="utf-8", errors="replace") as said:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
        )
        try:
            yield Contender(process, [_say(process, 1)["loss"] for _ in range(3)])
        except RuntimeError as error:
            said.seek(0)
            raise RuntimeError(f"{error}: {said.read()[-1000:]}") from None
        finally:
            process.kill()
            process.wait()


def _batch(plan: Plan, kind: str) -> tuple[Path, float]:
    """A folder with a batch, drawn as a run would draw it, and what drawing takes."""
    from retinal_tl.patches import AUGMENTATIONS, patch_source, sample_patches
    from retinal_tl.preprocess import Preprocessing, prepare, prepare_mask
    from retinal_tl.synthetic import phantom

    settings, sources = Preprocessing(diameter=512), []
    for i in range(2):
        eye = phantom(i, size=560, lesions=("exudates",))
        prepared = prepare(eye.photo, settings)
        coverage = prepare_mask(eye.masks["exudates"], prepared.field, settings)
        sources.append(patch_source(prepared.image, coverage[..., None], prepared.inside))
    side, count = (64, 4) if plan.quick else (160, 16)
    draw = lambda: sample_patches(sources, side, count, np.random.default_rng(0), 0.5, AUGMENTATIONS["rich"])
    squares, coverages = draw()
    seconds = statistics.median(timed(draw)[0] for _ in range(plan.rounds))
    targets = coverages.astype(np.float32) / 255
    if kind == "stage1":
        targets = (targets.max((1, 2)) > 0.5).astype(np.float32)
    folder = plan.folder / f"training-{kind}"
    folder.mkdir(exist_ok=True)
    np.savez(folder / "batch.npz", inputs=squares.astype(np.float32), targets=targets)
    return folder, seconds


def _compared(plan: Plan, other: str, target: float | None) -> list[Row]:
    """A step of ours on TensorFlow against one of another's, for each kind of training."""
    rows = []
    for what, kind in KINDS.items():
        folder, drawing = _batch(plan, kind)
        with ExitStack() as both:
            ours, theirs = (both.enter_context(contender(one, kind, folder)) for one in ("tensorflow", other))
            apart = [abs(a - b) / abs(b) for a, b in zip(ours.losses, theirs.losses)]
            assert apart[0] < 1e-3 and apart[-1] < 0.05, f"{what}: losses {ours.losses} and {theirs.losses}"
            pairs = [(ours.step(2), theirs.step(2)) for _ in range(plan.rounds)]
        ratios = [b[0] / a[0] for a, b in pairs]
        rows.append(
            Row(
                "training",
                f"{what}: a step",
                statistics.median(a[0] for a, _ in pairs),
                statistics.median(b[0] for _, b in pairs),
                dict(torch="the equal network in PyTorch, channels last", jax="the same network on JAX")[other],
                statistics.median(ratios),
                min(ratios),
                max(ratios),
                statistics.median(b[1] / max(a[1], 1e-9) for a, b in pairs),
                target=target,
                checked=f"the first loss {apart[0]:.0e} apart, the third {apart[-1]:.0e}",
            )
        )
        if other == "jax" and kind == "finetune":  # once is enough
            rows.append(_sampler(what, drawing, rows[-1].ours))
    return rows


def _sampler(what: str, drawing: float, step: float) -> Row:
    """What it takes to draw a batch, over the step that it feeds."""
    return Row(
        "training",
        f"{what}: to draw a batch over a step",
        drawing,
        step,
        "ours on TensorFlow",
        drawing / step,
        at_least=False,
        checked="the batch that the step was given",
    )


def backends(plan: Plan) -> list[Row]:
    """Ours on TensorFlow and on JAX."""
    import jax  # noqa: F401
    import tensorflow  # noqa: F401

    return _compared(plan, "jax", None)


def against_torch(plan: Plan) -> list[Row]:
    """Ours on TensorFlow and the equal network as one writes it in PyTorch."""
    import tensorflow  # noqa: F401

    if importlib.util.find_spec("torch") is None:
        raise ModuleNotFoundError("torch", name="torch")
    rows = _compared(plan, "torch", 1.0)
    return [Row(**{**row.__dict__, "part": "training, PyTorch"}) for row in rows]
