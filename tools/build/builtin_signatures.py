"""Write what the built-in models have learned from, so that `retinal_tl evaluate` can leave those eyes out.

    python tools/build/builtin_signatures.py IDRiD DR-screening

IDRiD is the folder of the outlined photographs, DR-screening that of the graded ones with its labels.csv. Two files go
into retinal_tl/weights: signatures.npz, a signature of each photograph in five gray levels, which takes 4 kB where a
whole one takes 20; and seen.json, which names for each model the photographs that it learned from (`training`) and
those that chose its epoch or its thresholds (`validation`). Run it whenever `land` has put other models there.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from retinal_tl.cards import Card, ClassifierCard, read_card
from retinal_tl.core import write_text
from retinal_tl.datasets import Example
from retinal_tl.leakage import Signatures, hold_signatures, read_signatures, write_signatures
from retinal_tl.readers import open_data

REPOSITORY = Path(__file__).resolve().parent.parent.parent
CUTS, LEVELS = (0.38, 1.24), (0.0, 0.8, 1.7)  # in standard deviations: the best five levels for a normal distribution


def coarse(signature: np.ndarray) -> np.ndarray:
    """A signature, float32 (side, side), with five values in place of many; it stays as like to others as it was."""
    inside = signature != 0
    if not inside.any():
        return signature
    size = np.abs(signature) / signature[inside].std()
    return (np.sign(signature) * np.array(LEVELS)[np.searchsorted(CUTS, size)]).astype(np.float32)


def seen_by(card: Card, examples: Iterable[Example]) -> dict[str, list[str]]:
    """Names of the photographs that taught a model or its parents, and of those that chose its epoch or thresholds."""
    eyes = set(card.data.training_eyes) | {eye for parent in card.parents for eye in parent.training_eyes}
    named, examples = set(card.split.training), list(examples)
    training = {one.name for one in examples if one.name in named or one.eye in eyes}
    chosen = set(card.split.validation) - training
    if isinstance(card, ClassifierCard) and "graded" in card.metrics:  # its threshold is from all other graded ones
        chosen |= {one.name for one in examples if one.source.startswith("csv") and one.name not in training}
    return dict(training=sorted(training), validation=sorted(chosen))


def write(weights: Path, examples: Sequence[Example]) -> Signatures:
    """Write both files. Raises `SystemExit` if a photograph that a card names is not there."""
    folders = sorted(path.parent for path in weights.rglob("card.json"))
    seen = {folder.relative_to(weights).as_posix(): seen_by(read_card(folder), examples) for folder in folders}
    names = sorted({name for parts in seen.values() for part in parts.values() for name in part})
    photos = {one.name: one.photo for one in examples}
    missing = [name for name in names if name not in photos]
    if missing:
        raise SystemExit(f"{missing[0]} is named by a card and is not in the data: give the folders it was made from.")
    found, problems = read_signatures({name: photos[name] for name in names})
    if problems:
        raise SystemExit(problems[0])
    kept = hold_signatures(names, np.stack([coarse(one) for one in found.read(range(len(names)))]))
    write_signatures(weights / "signatures.npz", kept)
    write_text(weights / "seen.json", json.dumps(seen, indent=0) + "\n")
    return kept


def main() -> None:
    """Read the data and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("idrid")
    parser.add_argument("screening")
    given = parser.parse_args()
    data = open_data("idrid+csv", [given.idrid, given.screening], "labels.csv")
    weights = REPOSITORY / "retinal_tl" / "weights"
    written = write(weights, data.examples)
    size = (weights / "signatures.npz").stat().st_size
    print(f"{len(written)} signatures in {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
