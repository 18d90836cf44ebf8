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
from retinal_tl.training import Recipe, train

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
train(model, make_batch, validate, folder, recipe)
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


WIDE = """
import hashlib, sys
import keras, numpy as np
from retinal_tl.losses import make_loss
from retinal_tl.segmenter import build_segmenter
from retinal_tl.training import _keras_bytes, one_operation_at_a_time, write_onnx

one_operation_at_a_time()
keras.utils.set_random_seed(0)
model = build_segmenter("vgg16", 0.25)
model.compile(optimizer=keras.optimizers.Adam(2e-3, clipnorm=1.0), loss=make_loss("bce+dice"))
model.optimizer.build(model.trainable_variables)
rng = np.random.default_rng(0)
count = 12 if keras.backend.backend() == "tensorflow" else 4  # on TensorFlow the number with which its threads were seen to add up in another order
photos, masks = rng.integers(0, 256, (count, 160, 160, 3)).astype("float32"), (rng.random((count, 160, 160, 1)) > 0.95).astype("float32")
for step in range(5): model.train_on_batch(photos, masks)
print(hashlib.sha256(b"".join(weight.tobytes() for weight in model.get_weights())).hexdigest())
several = build_segmenter("vgg16", 0.05, kinds=3)  # of equal decoders, parts of which are merged and shared
print(hashlib.sha256(_keras_bytes(several)).hexdigest())
if keras.backend.backend() == "tensorflow":
    write_onnx(several, sys.argv[1])
    print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())
"""


def test_a_network_of_useful_size_repeats_itself_to_the_bit(tmp_path):
    """Small ones did while this one did not: their gradients never met in another order. Its files too, whatever order a process gives to sets and wherever in memory it puts things."""

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
