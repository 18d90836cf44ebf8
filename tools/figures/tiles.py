"""How large a tile should be, and how far tiles should overlap: what each choice costs, and what it changes.

    python tools/figures/tiles.py IDRiD builtin-fast --output results/tiles.csv

One look of a network at its own validation photographs, at the scale of its maps: seconds of the network, pixels that
it was asked about for each pixel inside the field of view, how far the maps lie from those of a crop that is looked at
in one piece, and the areas under the precision-recall curves. Nothing else should run.
"""

import argparse
import csv
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from coarse_shares import photographs

from retinal_tl.inference import crop_maps, load_run
from retinal_tl.metrics import average_precision, coarsen, pixel_histogram
from retinal_tl.preprocess import Prepared

WAYS = ((0, 0.0), (1088, 0.0625), (768, 0.0), (768, 0.0625), (768, 0.25), (512, 0.0625), (384, 0.0625), (256, 0.0625))
COLUMNS = ("model", "tile", "overlap", "tiles", "asked", "seconds", "apart", "largest_apart", "mean", "photographs")


def look(run, prepared: Prepared, tile: int, overlap: float) -> tuple[np.ndarray, int, float]:
    """The maps of a crop, how many tiles the network was asked about, and its seconds."""
    asked, seconds = 0, 0.0

    def predict(tiles: np.ndarray) -> np.ndarray:
        nonlocal asked, seconds
        asked, begun = asked + len(tiles), time.perf_counter()
        maps = run.predict(tiles)
        seconds += time.perf_counter() - begun
        return maps

    card = replace(run.card, tile=tile, overlap=overlap, flips="none", coarse={})
    return crop_maps(prepared, predict, card), asked, seconds


def rows_of(model: str, root: Path) -> list[dict]:
    """A row for each way to lay tiles."""
    run, rows, whole = load_run(model, "segmenter"), [], []
    eyes = list(photographs(run, root))
    side = -(-run.card.preprocessing.diameter // 32) * 32
    look(run, eyes[0][0], side, 0.0)  # the first one is slower
    for tile, overlap in ((tile or side, overlap) for tile, overlap in WAYS):
        histograms: dict[str, list] = {lesion: [] for lesion in run.card.lesions}
        counts, times, apart = [], [], []
        for number, (prepared, masks) in enumerate(eyes):
            maps, count, seconds = look(run, prepared, tile, overlap)
            whole += [maps] if tile == side else []
            counts.append(count * tile**2 / prepared.inside.sum())
            times.append(seconds)
            apart.append(np.abs(maps - whole[number])[prepared.inside])
            for i, (lesion, mask) in enumerate(masks.items()):
                histograms[lesion].append(coarsen(pixel_histogram(maps[..., i], mask)))
        areas = [average_precision(sum(one)) for one in histograms.values()]
        row = dict(model=model, tile=tile, overlap=overlap, tiles=count, asked=f"{np.mean(counts):.2f}")
        row |= dict(seconds=f"{np.median(times):.2f}", apart=f"{np.mean([one.mean() for one in apart]):.5f}")
        row |= dict(largest_apart=f"{max(one.max() for one in apart):.3f}", mean=f"{np.mean(areas):.4f}")
        rows.append(row | dict(photographs=len(eyes)))
        print(*rows[-1].values(), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    rows = [row for model in given.models for row in rows_of(model, given.root)]
    with open(given.output, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main()
