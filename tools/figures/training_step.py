"""A training step with Keras' batch normalization and with ours: seconds, by turns.

    python tools/figures/training_step.py 6

EfficientNet-lite2 with one decoder for four lesions, twelve patches of 256 pixels, in 32 bits. Run it with nothing else
on the machine; nothing is written.
"""

import argparse
import statistics
import time
from unittest.mock import patch

import keras
import numpy as np

from retinal_tl import efficientnet, encoders
from retinal_tl.normalization import BatchNormalization
from retinal_tl.segmenter import build_segmenter
from retinal_tl.training import one_operation_at_a_time

KINDS = {"Keras'": keras.layers.BatchNormalization, "ours": BatchNormalization}


def trained_once(kind: type, batch: tuple[np.ndarray, np.ndarray]) -> keras.Model:
    """The network with that normalization, after its first step, which is slow."""
    with patch.object(encoders, "BatchNormalization", kind), patch.object(efficientnet, "BatchNormalization", kind):
        model = build_segmenter("efficientnet_lite2", 1.0, kinds=4, decoder="shared")
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="binary_crossentropy")
    model.train_on_batch(*batch)
    return model


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", type=int, help="how many steps each takes, by turns")
    steps = parser.parse_args().steps
    one_operation_at_a_time()
    chance = np.random.default_rng(0)
    photos = (255 * chance.random((12, 256, 256, 3))).astype(np.float32)
    batch = photos, (chance.random((12, 256, 256, 4)) > 0.9).astype(np.float32)
    models = {name: trained_once(kind, batch) for name, kind in KINDS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(steps):
        for name, model in models.items():
            begun = time.monotonic()
            model.train_on_batch(*batch)
            seconds[name].append(time.monotonic() - begun)
    for name, each in seconds.items():
        print(f"{name:7} {statistics.median(each):.2f} s ({min(each):.2f} to {max(each):.2f})")


if __name__ == "__main__":
    main()
