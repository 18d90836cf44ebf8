"""Processes that learn as one make the curve of one, hand their checkpoints over, and end together.

They are started here, on Keras with JAX, whatever Keras has in this process: so there is nothing to run again on JAX.
"""

import csv
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest

pytestmark = pytest.mark.slow

# Sums over two halves are rounded in another order than sums over the whole, which is 1e-7 of a gradient; Adam divides
# it by its own size, so that the smallest ones make whole steps. Measured in four epochs: at most 1.7e-7 of the loss,
# which is a mean of many pixels, and 1.2e-5 of the measure, which shows single weights. Were the batch
# of two half a batch, the first loss would differ by 2e-2.
TOLERANCE = dict(loss=2e-6, right=1e-4, learning_rate=1e-6)

LEARN = """
import os, signal, sys
import keras
import numpy as np
from retinal_tl import parallel
from retinal_tl.normalization import BatchNormalization
from retinal_tl.training import Recipe, fit, follow

process, processes, address, folder, fatal = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]


def seen(event, given):
    "Say where this process writes."
    if event == "open" and isinstance(given[0], str) and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        if os.path.abspath(given[0]).startswith(folder):
            os.write(1, b"WROTE\\n")


def learn():
    keras.utils.set_random_seed(0)
    photo = keras.Input((None, None, 3))
    maps = keras.layers.Conv2D(8, 3, padding="same")(photo)
    maps = keras.layers.Dropout(0.3, seed=1)(keras.layers.ReLU()(BatchNormalization()(maps)))
    model = keras.Model(photo, keras.layers.Conv2D(1, 3, padding="same", activation="sigmoid")(maps))
    share = parallel.own_share(8)

    def make_batch(epoch, step, share=share):
        if fatal == f"{process}:{epoch}:{step}":
            os.kill(os.getpid(), signal.SIGKILL)
        photos = np.random.default_rng((epoch, step)).normal(size=(8, 16, 16, 3)).astype(np.float32)
        return photos[share], (photos[share, ..., :1] > 1).astype(np.float32)

    def validate(model):
        photos, truth = make_batch(99, 0, slice(None))
        return dict(right=float(1 - np.abs(model.predict_on_batch(photos) - truth).mean()))

    recipe = Recipe(epochs=4, steps_per_epoch=3, batch_size=8, learning_rate=0.02, loss="bce+dice", precision="float32")
    print("on", parallel.compute_device(), "rows", share.start, share.stop, flush=True)
    sys.addaudithook(seen)
    if process == 0:
        fit(model, make_batch, validate, folder, recipe)
    else:
        follow(model, make_batch, folder, recipe)


if processes == 1:
    learn()
else:
    with parallel.together(processes, process, address, lambda line: print(line, flush=True)):
        learn()
"""


def start(code, *arguments, **environment):
    """A process on Keras with JAX, on the processor."""
    own = os.environ | dict(KERAS_BACKEND="jax", JAX_PLATFORMS="cpu", TF_CPP_MIN_LOG_LEVEL="3") | environment
    words = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=own)


def free_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def learned(folder, processes=1, fatal="", elsewhere=False, **environment):
    """What each of so many processes, held to a core each, said and how it ended; `elsewhere`: in other folders."""
    address = free_address()
    folders = [folder / str(i) if elsewhere and i else folder for i in range(processes)]
    started = [start(LEARN, i, processes, address, folders[i], fatal, **environment) for i in range(processes)]
    cores = sorted(os.sched_getaffinity(0))
    for i, one in enumerate(started):
        os.sched_setaffinity(one.pid, {cores[i % len(cores)]})
    try:
        ends = [one.communicate(timeout=200) for one in started]
    finally:
        for one in started:
            one.kill()
    return [(said.splitlines(), errors, one.returncode) for (said, errors), one in zip(ends, started)]


def curve(folder):
    with open(folder / "history.csv", newline="") as text:
        return [{name: float(row[name]) for name in TOLERANCE} for row in csv.DictReader(text)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The curve of one process on one device."""
    folder = tmp_path_factory.mktemp("alone")
    ((said, errors, status),) = learned(folder)
    assert status == 0, errors[-2000:]
    assert said[0] == "on CPU rows 0 8"
    return curve(folder)


def assert_same(one, other):
    assert len(one) == len(other) == 4
    for name, most in TOLERANCE.items():
        found = max(abs(row[name] / like[name] - 1) for row, like in zip(one, other))
        assert found < most, f"{name} differs by {found:.1e}"


def test_two_devices_of_one_process_have_the_curve_of_one(alone, tmp_path):
    flags = dict(XLA_FLAGS="--xla_force_host_platform_device_count=2")
    ((said, errors, status),) = learned(tmp_path, **flags)
    assert status == 0, errors[-2000:]
    assert said[0] == "on 2 x CPU rows 0 8"
    assert_same(curve(tmp_path), alone)


def test_a_training_goes_from_two_processes_to_one_and_back(alone, tmp_path):
    """One of two is killed in the second epoch: the other ends by itself and says why. One alone goes on and is killed
    in the third; two bring it to its end, with the curve of one that was never disturbed."""
    (first, errors, status), (second, _, killed) = learned(tmp_path, 2, "1:1:1")
    assert (status, killed) == (1, -signal.SIGKILL), errors[-2000:]
    assert first[0] == "on 2 x CPU rows 0 4" and second[0] == "on 2 x CPU rows 4 8"
    assert first[-1].startswith("Process 1 of 2 has ended or cannot be reached, so process 0 ends, too: start all")
    assert "WROTE" in first and "WROTE" not in second
    assert len(curve(tmp_path)) == 1

    ((_, _, status),) = learned(tmp_path, 1, "0:2:1")
    assert status == -signal.SIGKILL and len(curve(tmp_path)) == 2

    (first, errors, status), (second, more, other) = learned(tmp_path, 2)
    assert (status, other) == (0, 0), errors[-2000:] + more[-2000:]
    assert "WROTE" in first and "WROTE" not in second
    assert_same(curve(tmp_path), alone)


def test_the_first_process_is_killed_and_the_folder_is_another(tmp_path):
    """Whoever waits for a word of the first, or for a checkpoint that only the first sees, does not wait for ever."""
    begun = time.monotonic()
    (_, _, killed), (second, _, status) = learned(tmp_path, 2, "0:1:0")
    assert (killed, status) == (-signal.SIGKILL, 1)
    assert second[-1].startswith("Process 0 of 2 has ended") and time.monotonic() - begun < 120
    (first, _, status), (second, _, other) = learned(tmp_path, 2, elsewhere=True)
    assert (status, other) == (1, 1)
    assert second[-1].endswith("is not what the first process sees: give all of them one folder.")
    assert first[-1].startswith("Process 1 of 2 has ended")


def test_devices_have_equal_parts():
    code = "from retinal_tl.parallel import own_share; print(own_share(9))"
    done = start(code, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    _, errors = done.communicate(timeout=100)
    sentence = "batch_size is 9, which 2 devices cannot divide evenly: give a multiple of 2, or show fewer devices"
    assert sentence in errors.splitlines()[-1]
