#!/usr/bin/env python
"""The network files of the built-in segmenters, written anew for the engine; their cards get the new digests.

    python tools/build/builtin_networks.py

Run it when `retinal_tl.network_files` has learned something. The weights are kept in
16 bits as they are, so the numbers stay the same but for the order in which a few of them are added.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime

from retinal_tl.builtin import halve_weights
from retinal_tl.cards import read_card, read_verified, write_card
from retinal_tl.core import file_digest
from retinal_tl.network_files import for_engine
from retinal_tl.synthetic import phantom

WEIGHTS = Path(__file__).resolve().parents[2] / "retinal_tl" / "weights"
TOLERANCE = 1e-5  # of a probability


def answer(contents: bytes, tiles: np.ndarray) -> np.ndarray:
    """What a network says of tiles."""
    session = onnxruntime.InferenceSession(contents, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: tiles})[0]


def rewrite(folder: Path) -> str:
    """One network written anew; what came of it, in a sentence."""
    card = read_card(folder)
    old = read_verified(folder, card, "model.onnx")
    new = halve_weights(for_engine(old))
    if new == old:
        return f"{folder.name}: nothing to do."
    tiles = phantom(5, size=512).photo[None, :384, :384].astype(np.float32)
    difference = float(np.abs(answer(old, tiles) - answer(new, tiles)).max())
    if not difference <= TOLERANCE:
        raise SystemExit(f"{folder.name} would differ by {difference:.1e}: nothing was written.")
    (folder / "model.onnx").write_bytes(new)
    write_card(folder, replace(card, files={**card.files, "model.onnx": file_digest(folder / "model.onnx")}))
    return f"{folder.name}: written anew; largest difference {difference:.1e}."


def main() -> None:
    """Write the networks that `builtin` asks, and what its card says of them."""
    folder = WEIGHTS / "segmenter"
    card = read_card(folder)
    for name in card.members:
        print(rewrite(folder / name))
    files = {f"{name}/model.onnx": file_digest(folder / name / "model.onnx") for name in card.members}
    write_card(folder, replace(card, files=files))


if __name__ == "__main__":
    main()
