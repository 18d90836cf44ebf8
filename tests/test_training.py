"""Training survives being killed, repeats itself, and keeps frozen encoders frozen; on any Keras backend."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.jax]

SCRIPT = """
import json, sys, time
from pathlib import Path
import keras, numpy as np
from retinal_tl.metrics import average_precision, pixel_histogram
from retinal_tl.training import Recipe, fit

folder, pause = Path(sys.argv[1]), float(sys.argv[2])
recipe = Recipe(epochs=3, steps_per_epoch=4, batch_size=4, learning_rate=3e-3, loss="bce", seed=5)

def make_batch(epoch, step):
    (folder/"step").write_text(f"{epoch} {step}")
    time.sleep(pause)
    rng = np.random.default_rng((recipe.seed, epoch, step))
    truth = rng.integers(0, 2, (4, 1))
    photos = rng.integers(0, 200, (4, 32, 32, 3))+40*truth[:, :, None, None]
    return photos.astype("float32"), truth.astype("float32")

photos, truth = [np.concatenate(parts) for parts in zip(*[make_batch(100, step) for step in range(4)])]

def validate(model):
    answer = np.asarray(model.predict_on_batch(photos))
    return dict(aupr=average_precision(pixel_histogram(answer, truth > 0)), mean=float(answer.mean()))

keras.utils.set_random_seed(recipe.seed)
layers = keras.layers  # of each kind that has a state one: weights, running statistics, random numbers
model = keras.Sequential([keras.Input((32, 32, 3)), layers.Conv2D(8, 3), layers.BatchNormalization(), layers.ReLU(),
                          layers.GlobalAveragePooling2D(), layers.Dropout(0.5), layers.Dense(1, activation="sigmoid")])
fit(model, make_batch, validate, folder, recipe, print)
np.savez(folder/"weights.npz", *[np.asarray(variable) for variable in model.variables])
"""


def start(script: Path, folder: Path, pause: float = 0.0) -> subprocess.Popen:
    """A process that trains into a folder; `pause` seconds before each batch leave time to kill it."""
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(script), str(folder), str(pause)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> None:
    """Wait for a training, and show what it said if it failed."""
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said


def history(folder: Path) -> list[dict]:
    """The rows of history.csv, without the time they took."""
    with open(folder / "history.csv", newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def weights(folder: Path) -> list[np.ndarray]:
    with np.load(folder / "weights.npz") as saved:
        return [saved[name] for name in saved.files]


def kill_at(process: subprocess.Popen, folder: Path, epoch: int, step: int) -> None:
    """SIGKILL as soon as the training has come to a step."""
    for _ in range(3000):
        text = (folder / "step").read_text().split() if (folder / "step").exists() else []
        if len(text) == 2 and tuple(map(int, text)) == (epoch, step):
            break
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, Path]:
    """The script, and the folder of a training that was not interrupted."""
    folder = tmp_path_factory.mktemp("training")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    finish(start(script, folder / "whole"))
    return script, folder / "whole"


def test_killed_in_mid_epoch_ends_with_the_same_numbers(whole, tmp_path):
    script, unbroken = whole
    broken = tmp_path / "broken"
    kill_at(start(script, broken, pause=0.3), broken, 1, 2)
    assert not (broken / "weights.npz").exists()
    assert len(history(broken)) == 1
    finish(start(script, broken))
    assert history(broken) == history(unbroken)
    for first, second in zip(weights(broken), weights(unbroken)):
        np.testing.assert_array_equal(first, second)


def test_same_seed_same_numbers(whole, tmp_path):
    script, first = whole
    finish(start(script, tmp_path / "second"))
    assert history(tmp_path / "second") == history(first)
    for one, other in zip(weights(tmp_path / "second"), weights(first)):
        np.testing.assert_array_equal(one, other)


def test_damaged_checkpoint_is_an_error_in_words(whole, tmp_path):
    import shutil

    script, unbroken = whole
    shutil.copytree(unbroken, tmp_path / "damaged")
    path = tmp_path / "damaged" / "checkpoint" / "last.npz"
    path.write_bytes(path.read_bytes()[:1000])
    process = start(script, tmp_path / "damaged")
    said, _ = process.communicate(timeout=300)
    assert process.returncode != 0 and "does not fit this model" in said


def test_curves_and_logs(whole):
    _, folder = whole
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert any((folder / "logs").iterdir())


def test_a_log_tells_how_far_it_is_and_how_long_it_will_take(whole, tmp_path):
    """A run said nothing between two epochs, which take minutes."""
    script, _ = whole
    fast = tmp_path / "fast.py"
    fast.write_text("import retinal_tl.training\nretinal_tl.training.PROGRESS_SECONDS = 0\n" + script.read_text())
    process = start(fast, tmp_path / "told")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    lines = [line for line in said.splitlines() if line.startswith("epoch ")]
    assert [line.split(",")[0] for line in lines if "left" not in line] == [
        line.split(",")[0] for line in lines if "aupr" in line
    ]
    told = [line for line in lines if line.endswith("less than a minute left")]
    places = [f"step {step}/4" for step in (1, 2, 3)] + ["measuring"]
    expected = [f"epoch {epoch}/3, {place}" for epoch in (1, 2, 3) for place in places]
    assert [line.rpartition(",")[0] for line in told] == expected[1:]  # the first step is not timed
    assert [line[:10] for line in lines if "aupr" in line] == ["epoch 1/3:", "epoch 2/3:", "epoch 3/3:"]


@pytest.fixture
def clock(monkeypatch):
    """The time that a training sees, set by the test."""
    from types import SimpleNamespace

    from retinal_tl import training

    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: now.seconds, time=lambda: now.seconds))
    return now


def lines_of(clock, recipe, step_seconds, measure_seconds, first=5.0):
    """What is reported of a training whose steps and measurements take so long, and when."""
    from types import SimpleNamespace

    from retinal_tl.training import _Pace

    said, bar = [], SimpleNamespace(disable=True)
    pace = _Pace(recipe, lambda line: said.append((clock.seconds, line)))
    for epoch in range(1, recipe.epochs + 1):
        for step in range(1, recipe.steps_per_epoch + 1):
            clock.seconds += first if (epoch, step) == (1, 1) else step_seconds
            pace.step_made(epoch, step, bar)
        clock.seconds += measure_seconds
        pace.measured()
    return said


def test_lines_come_at_a_steady_pace_and_count_the_epochs_to_come(clock):
    from retinal_tl.training import Recipe

    said = lines_of(clock, Recipe(epochs=6, steps_per_epoch=100), 0.5, 25)
    times = np.array([when for when, _ in said])
    assert np.diff(times).min() >= 10 and np.diff(times).max() <= 40  # seconds; measuring lies between
    assert said[0] == (10.0, "epoch 1/6, step 11/100, about 5 minutes left")  # measuring is not known yet
    second = [line for _, line in said if line.startswith("epoch 2/6")]
    assert second[0].endswith("about 6 minutes left"), second  # 5 x 50 s and 5 x 25 s
    assert said[-1][1].startswith("epoch 6/6") and said[-1][1].endswith("less than a minute left")


def test_lines_are_rarer_where_hours_are_left(clock):
    from retinal_tl.training import Recipe

    said = lines_of(clock, Recipe(epochs=3, steps_per_epoch=1000), 12, 100)
    gaps = np.diff([when for when, _ in said])
    assert (gaps[:100] == 60).all() and gaps[-1] < 60  # a minute at most, and ten seconds as the end comes near
    assert said[0][1] == "epoch 1/3, step 6/1000, about 10 hours left"


def test_a_terminal_has_a_bar_instead(clock):
    from types import SimpleNamespace

    from retinal_tl.training import Recipe, _Pace

    said, shown = [], []
    bar = SimpleNamespace(disable=False, set_postfix_str=lambda text, refresh: shown.append(text))
    pace = _Pace(Recipe(epochs=2, steps_per_epoch=100), said.append)
    for step in range(1, 31):
        clock.seconds += 1
        pace.step_made(1, step, bar)
    assert not said and shown == ["about 3 minutes left in all"] * 3


def test_the_training_computes_in_the_precision_that_the_plan_resolved():
    from retinal_tl.backends import PRECISIONS, keras_backend, resolved_precision
    from retinal_tl.training import choose_precision, keras

    assert keras_backend() == keras.backend.backend()
    for precision in PRECISIONS:
        assert choose_precision(precision) == resolved_precision(precision, keras_backend())


WIDE = """
import hashlib, sys
import keras, numpy as np
from retinal_tl.losses import make_loss
from retinal_tl.model_files import _keras_bytes, write_onnx
from retinal_tl.segmenter import build_segmenter
from retinal_tl.training import one_operation_at_a_time

one_operation_at_a_time()
keras.utils.set_random_seed(0)
model = build_segmenter("vgg16", 0.25)
model.compile(optimizer=keras.optimizers.Adam(2e-3, clipnorm=1.0), loss=make_loss("bce+dice"))
model.optimizer.build(model.trainable_variables)
rng = np.random.default_rng(0)
# on TensorFlow the number with which its threads were seen to add up in another order
count = 12 if keras.backend.backend() == "tensorflow" else 4
photos = rng.integers(0, 256, (count, 160, 160, 3)).astype("float32")
masks = (rng.random((count, 160, 160, 1)) > 0.95).astype("float32")
for step in range(5): model.train_on_batch(photos, masks)
print(hashlib.sha256(b"".join(weight.tobytes() for weight in model.get_weights())).hexdigest())
several = build_segmenter("vgg16", 0.05, kinds=3)  # of equal decoders, parts of which are merged and shared
print(hashlib.sha256(_keras_bytes(several)).hexdigest())
if keras.backend.backend() == "tensorflow":
    write_onnx(several, sys.argv[1])
    print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())
"""


def test_a_network_of_useful_size_repeats_itself_to_the_bit(tmp_path):
    """Small ones did while this one did not: their gradients never met in another order.

    Its files too, whatever order a process gives to sets and wherever in memory it puts things.
    """

    def digests(seed):
        process = subprocess.run(
            [sys.executable, "-c", WIDE, tmp_path / "model.onnx"],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | dict(PYTHONHASHSEED=str(seed)),
        )
        return process.stdout.split()[-3:]

    assert digests(1) == digests(2)
