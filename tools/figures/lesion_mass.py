"""Does a classifier look at lesions? The share of its heat maps' mass on the lesions of IDRiD's outlined photographs.

    python tools/figures/lesion_mass.py runs/stage1-... --idrid "IDRiD/A. Segmentation" [--output results/gradcam.json]

Photographs of an eye that the run's training saw are left out, going by the eyes that its card names and by the
signatures that lie beside it. Validation of the run may have seen the others: it chose an epoch by them, and no weight.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np

from retinal_tl.cards import ClassifierCard, read_classifier_card
from retinal_tl.core import printable, write_text
from retinal_tl.datasets import Example
from retinal_tl.encoders import encoder_of
from retinal_tl.gradcam import MassOnLesions, gain, lesion_mass, map_grid, mass_on_lesions, photo_heat, to_pixels
from retinal_tl.inference import input_side
from retinal_tl.leakage import find_same_eyes, open_signatures, read_signatures
from retinal_tl.masks import read_mask
from retinal_tl.model_files import load_weights
from retinal_tl.preprocess import Prepared, Preprocessing, prepare_file, prepare_mask
from retinal_tl.readers import open_data
from retinal_tl.uncertainty import bootstrap_interval

REPOSITORY = Path(__file__).resolve().parents[2]
SETTINGS = ("encoder", "width", "pooling", "diameter", "image_size", "labels", "epochs", "steps_per_epoch", "seed")
PACKAGES = ("retinal_tl", "keras", "tensorflow", "numpy", "opencv-python-headless")


def unseen(examples: Sequence[Example], run: Path, card: ClassifierCard, cache: str) -> list[Example]:
    """Those whose eye the run's training has not seen."""
    signatures, problems = read_signatures({example.name: example.photo for example in examples}, cache)
    if problems:
        raise SystemExit("\n".join(problems))
    seen = {pair.first for pair in find_same_eyes(signatures, open_signatures(run / "signatures.npz"))}
    known = set(card.data.training_eyes)
    return [example for example in examples if example.name not in seen and example.eye not in known]


def all_lesions(example: Example, shape: tuple[int, int]) -> np.ndarray:
    """The masks of all kinds in one, bool (height, width)."""
    return np.logical_or.reduce([read_mask(path, shape) for path in example.masks.values() if path is not None])


def truth_map(grid: tuple[int, float], prepared: Prepared, mask: np.ndarray, settings: Preprocessing) -> np.ndarray:
    """The heat map of a classifier that knows how much of each position is lesion, on the photograph."""
    step, first = grid
    coverage = prepare_mask(mask, prepared.field, settings)
    side = -(-len(coverage) // step) * step
    padded = np.pad(coverage / 255, (0, side - len(coverage)))
    share = padded.reshape(side // step, step, side // step, step).mean((1, 3))
    heat = to_pixels(share[None], step, first)[0, : len(coverage), : len(coverage)]
    return np.where(prepared.field.mask(prepared.shape), prepared.field.restore(heat, prepared.shape), 0)


def as_json(found: MassOnLesions) -> dict:
    """The figures of one feature map, with 95 % intervals over photographs."""
    return dict(
        images=len(found.photos),
        without_lesion=found.without_lesion,
        empty_maps=found.empty_maps,
        mass=found.mass,
        mass_interval=bootstrap_interval(found.shares[:, 0], scale="logit"),
        chance=found.chance,
        gain=found.gain,
        gain_interval=bootstrap_interval(found.shares, gain, scale="log"),
        per_image=[asdict(one) for one in found.photos],
    )


def measure(
    classifier: keras.Model, card: ClassifierCard, examples: Iterable[Example], map_index: int, cache: str
) -> dict:
    """The figures of one feature map, with the mean mass of a map that knows the truth at the same size."""
    settings, best, grid = card.preprocessing, [], map_grid(encoder_of(classifier), map_index)
    side = input_side(card)
    tile = None if side >= settings.diameter else side

    def items():
        for example in examples:
            prepared = prepare_file(example.photo, settings, cache)
            mask, field = all_lesions(example, prepared.shape), prepared.field.mask(prepared.shape)
            best.append(lesion_mass(truth_map(grid, prepared, mask, settings), mask & field))
            heat = photo_heat(classifier, prepared, map_index, tile, card.overlap)
            print(f"map {map_index} {example.photo.name} {lesion_mass(heat, mask & field):.4f}", flush=True)
            yield example.photo.name, heat, mask, field

    return as_json(mass_on_lesions(items())) | dict(
        truth_at_this_size=float(np.nanmean(best)), pixels_per_position=grid[0]
    )


def commit() -> str:
    """The commit that was measured; '+' if the working tree differs from it."""

    def git(*command):
        return subprocess.run(["git", *command], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--", "retinal_tl", "tools")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def measured_run(card: ClassifierCard) -> dict:
    """What the page says about the run."""
    validation = card.metrics.get("validation", {})
    numbers = {name: value for name, value in validation.items() if isinstance(value, (int, float))}
    settings = {name: card.training.settings[name] for name in SETTINGS}
    return dict(name=card.name, created=card.created, validation=numbers, **settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run of stage 1")
    parser.add_argument("--idrid", type=Path, required=True, help="folder 'A. Segmentation' of IDRiD")
    parser.add_argument(
        "--maps", type=int, nargs="+", default=[-1, -2], help="feature maps (default: the two coarsest)"
    )
    parser.add_argument("--output", type=Path, default=REPOSITORY / "results" / "gradcam.json")
    given = parser.parse_args()
    measured = dict(commit=commit(), measured=datetime.now(UTC).isoformat(timespec="seconds"))
    card, classifier = read_classifier_card(given.run, "run"), load_weights(given.run)
    every = open_data("idrid", given.idrid).examples
    outlined = [example for example in every if example.source == "idrid" and any(example.masks.values())]
    command = ["python", "tools/figures/lesion_mass.py", given.run.name, "--idrid", printable(given.idrid.name)]
    with tempfile.TemporaryDirectory() as cache:
        examples = unseen(outlined, given.run, card, cache)
        print(f"{len(outlined)} outlined photographs, {len(examples)} of eyes that training has not seen", flush=True)
        maps = {str(index): measure(classifier, card, examples, index, cache) for index in given.maps}
    result = dict(
        what="share of the heat maps' mass inside the lesion masks, all kinds together, on the photographs' own pixels",
        run=measured_run(card),
        data="IDRiD, A. Segmentation, training half",
        outlined=len(outlined),
        seen_left_out=len(outlined) - len(examples),
        maps=maps,
        command=shlex.join([*command, "--maps", *map(str, given.maps)]),
        versions={name: version(name) for name in PACKAGES},
        hardware=card.hardware,
        **measured,
    )
    write_text(given.output, json.dumps(result, indent=1) + "\n")
    for index, found in maps.items():
        print(index, {name: value for name, value in found.items() if name != "per_image"})


if __name__ == "__main__":
    sys.exit(main())
