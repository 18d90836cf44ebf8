"""Does a classifier look at lesions? The share of its heat maps' mass on the lesions of IDRiD's outlined photographs.

    python tools/figures/lesion_mass.py runs/stage1-... --idrid "IDRiD/A. Segmentation" [--output results/gradcam.json]

Photographs of an eye that the run's training saw are left out: by the eyes that its card names, and by the signatures
that lie beside it. Validation of the run may have seen the others; it chose an epoch by them, and no weight.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import numpy as np

from retinal_tl.cards import read_card
from retinal_tl.core import printable, write_text
from retinal_tl.datasets import read_dataset
from retinal_tl.encoders import encoder_of
from retinal_tl.gradcam import first_center, lesion_mass, mass_on_lesions, photo_heat, to_pixels
from retinal_tl.images import read_mask
from retinal_tl.inference import input_side
from retinal_tl.leakage import find_same_eyes, read_signatures
from retinal_tl.preprocess import Preprocessing, prepare_file, prepare_mask
from retinal_tl.training import load_weights

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def unseen(examples, run, card):
    """Those whose eye the run's training has not seen."""
    with np.load(run / "signatures.npz", allow_pickle=False) as kept:
        known, signatures = kept["names"].tolist(), kept["signatures"].astype(np.float32)
    names, found, problems = read_signatures([example.photo for example in examples])
    if problems:
        raise SystemExit("\n".join(problems))
    seen = {pair.first for pair in find_same_eyes(names, found, known, signatures)}
    return [
        example
        for example in examples
        if str(example.photo) not in seen and example.eye not in card["data"]["training_eyes"]
    ]


def all_lesions(example, shape):
    """The masks of all kinds in one, bool (height, width)."""
    return np.logical_or.reduce([read_mask(path, shape) for path in example.masks.values() if path is not None])


def truth_map(classifier, prepared, mask, settings, step):
    """The heat map of a classifier that knows how much of each position is lesion, on the photograph."""
    coverage = prepare_mask(mask, prepared.field, settings)
    side = -(-len(coverage) // step) * step
    share = (
        np.pad(coverage / 255, (0, side - len(coverage))).reshape(side // step, step, side // step, step).mean((1, 3))
    )
    heat = to_pixels(share[None], step, first_center(encoder_of(classifier), step))[0, : len(coverage), : len(coverage)]
    return np.where(prepared.field.mask(prepared.shape), prepared.field.restore(heat, prepared.shape), 0)


def measure(classifier, card, examples, map_index, cache):
    """`mass_on_lesions` for one feature map, with the mean mass of a map that knows the truth at the same size."""
    settings, best = Preprocessing(**card["preprocessing"]), []
    side = input_side(card)
    tile = None if side >= settings.diameter else side
    step = 64 // encoder_of(classifier)(np.zeros((1, 64, 64, 3), np.float32))[map_index].shape[1]

    def items():
        for example in examples:
            prepared = prepare_file(example.photo, settings, cache)
            mask = all_lesions(example, prepared.shape)
            best.append(lesion_mass(truth_map(classifier, prepared, mask, settings, step), mask))
            heat = photo_heat(classifier, prepared, map_index, tile, card["overlap"])
            print(f"map {map_index} {example.photo.name} {lesion_mass(heat, mask):.4f}", flush=True)
            yield example.photo.name, heat, mask, prepared.field.mask(prepared.shape)

    return mass_on_lesions(items()) | dict(truth_at_this_size=float(np.nanmean(best)), pixels_per_position=step)


def commit():
    """The commit that was measured; '+' where the working tree differs from it."""

    def git(*command):
        return subprocess.run(["git", *command], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + (
        "+" if git("status", "--porcelain", "--", "retinal_tl", "tools") else ""
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run of stage 1")
    parser.add_argument("--idrid", type=Path, required=True, help="folder 'A. Segmentation' of IDRiD")
    parser.add_argument(
        "--maps", type=int, nargs="+", default=[-1, -2], help="feature maps (default: the two coarsest)"
    )
    parser.add_argument("--output", type=Path, default=REPOSITORY / "results" / "gradcam.json")
    arguments = parser.parse_args()
    measured = dict(commit=commit(), measured=datetime.now(UTC).isoformat(timespec="seconds"))
    card, classifier = read_card(arguments.run), load_weights(arguments.run)
    every = read_dataset("idrid", arguments.idrid).examples
    outlined = [example for example in every if example.source == "idrid" and any(example.masks.values())]
    examples = unseen(outlined, arguments.run, card)
    print(f"{len(outlined)} outlined photographs, {len(examples)} of eyes that training has not seen", flush=True)
    training = card["training"]
    run = {
        name: training[name]
        for name in (
            "encoder",
            "width",
            "pooling",
            "diameter",
            "image_size",
            "labels",
            "epochs",
            "steps_per_epoch",
            "seed",
        )
    }
    metrics = {
        name: value for name, value in card["metrics"].get("validation", {}).items() if isinstance(value, (int, float))
    }
    with tempfile.TemporaryDirectory() as cache:
        maps = {str(index): measure(classifier, card, examples, index, cache) for index in arguments.maps}
    result = dict(
        what="share of the heat maps' mass inside the lesion masks, all kinds together, on the photographs' own pixels",
        run=dict(name=card["name"], created=card["created"], validation=metrics, **run),
        data="IDRiD, A. Segmentation, training half",
        outlined=len(outlined),
        seen_left_out=len(outlined) - len(examples),
        maps=maps,
        command=shlex.join(
            [
                "python",
                "tools/figures/lesion_mass.py",
                arguments.run.name,
                "--idrid",
                printable(arguments.idrid.name),
                "--maps",
                *map(str, arguments.maps),
            ]
        ),
        versions={
            name: version(name) for name in ("retinal_tl", "keras", "tensorflow", "numpy", "opencv-python-headless")
        },
        hardware=card["hardware"],
        **measured,
    )
    write_text(arguments.output, json.dumps(result, indent=1) + "\n")
    for index, found in result["maps"].items():
        print(index, {name: value for name, value in found.items() if name != "per_image"})


if __name__ == "__main__":
    sys.exit(main())
