"""What a look at half the scale gives, by the share that it has: the runs of a recipe's folds, put together.

    python tools/figures/coarse_shares.py IDRiD runs/stage2-...-61222206 runs/... ... --output results/coarse_shares.csv

Each run is asked for its validation photographs at both scales. Shares are of the log-odds; `higher` takes the higher
of the two maps. Areas are at the scale of the maps and of all photographs together, so they differ a little from those
of results/folds.csv, which are at the photographs' own size.
"""

import argparse
import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from retinal_tl.core import LESIONS
from retinal_tl.images import read_photo
from retinal_tl.inference import Run, crop_maps, load_run, mean_of_odds
from retinal_tl.masks import read_mask
from retinal_tl.metrics import average_precision, coarsen, pixel_histogram
from retinal_tl.preprocess import Prepared, prepare
from retinal_tl.readers import open_data

SHARES = (0.0, 0.2, 0.25, 0.33, 0.4, 0.5)
COLUMNS = ("share", *LESIONS, "mean", "photographs")


def photographs(run: Run, root: Path) -> Iterator[tuple[Prepared, dict[str, np.ndarray]]]:
    """Each validation photograph of a run, prepared, with its masks in the crop."""
    examples = {example.name: example for example in open_data("idrid", root).examples}
    for name in run.card.split.validation:
        photo = read_photo(examples[name].photo)
        prepared = prepare(photo, run.card.preprocessing)
        masks = {}
        for lesion in run.card.lesions:
            path = examples[name].masks[lesion]
            mask = np.zeros(photo.shape[:2], bool) if path is None else read_mask(path)
            masks[lesion] = prepared.field.crop(mask.view(np.uint8) * np.uint8(255), prepared.inside.shape[0]) > 127
        yield prepared, masks


def maps_of(folder: Path, root: Path) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]]:
    """Of each validation photograph: its masks in the crop, and the maps at the network's scale and at half of it."""
    run = load_run(folder, "segmenter")
    for prepared, masks in photographs(run, root):
        both = (replace(run.card, coarse=dict.fromkeys(run.card.lesions, share)) for share in (0.0, 1.0))
        fine, coarse = (crop_maps(prepared, run.predict, card) for card in both)
        yield masks, fine, coarse


def mixed(fine: np.ndarray, coarse: np.ndarray) -> dict[str, np.ndarray]:
    """The map for each share, and the higher of the two."""
    found = {f"{share:g}": mean_of_odds([fine, coarse], [1 - share, share]) for share in SHARES}
    return found | dict(higher=np.maximum(fine, coarse))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    histograms: dict[tuple[str, str], list] = {}
    for folder in given.runs:
        for masks, fine, coarse in maps_of(folder, given.root):
            for i, (lesion, mask) in enumerate(masks.items()):
                for share, map in mixed(fine[..., i], coarse[..., i]).items():
                    histograms.setdefault((share, lesion), []).append(coarsen(pixel_histogram(map, mask)))
    rows = []
    for share in dict.fromkeys(share for share, _ in histograms):
        areas = {lesion: average_precision(sum(histograms[share, lesion])) for lesion in LESIONS}
        said = {lesion: f"{area:.4f}" for lesion, area in areas.items()}
        count = len(histograms[share, LESIONS[0]])
        rows.append(dict(share=share, mean=f"{np.mean(list(areas.values())):.4f}", photographs=count) | said)
        print(share, *said.values(), flush=True)
    with open(given.output, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main()
