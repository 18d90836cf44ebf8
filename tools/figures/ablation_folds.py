"""What each idea of the recipe gives, on folds: one thing is changed, and no network judges an eye that it has seen.

    python tools/figures/ablation_folds.py results/ablation_folds.csv \\
        --idrid ../shared/data/IDRiD --screening ../shared/data/DR-screening

The preset `best`, cut down until it can be trained many times: from scratch, at half the scale, for a few hundred
steps, on two folds of half the eyes. Each idea is this recipe with one thing changed. The difference in AUPR is paired
by photograph over both folds, each photograph at its own size and judged once. Runs are kept in --runs and used again.
`--share 1 3` only trains the first of every three networks, so that several machines or processes can divide the work;
a call without it trains what is missing and measures.
"""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

from retinal_tl.cards import read_segmenter_card
from retinal_tl.evaluation import read_histograms
from retinal_tl.metrics import PixelHistogram
from retinal_tl.runs import run_stage2
from retinal_tl.uncertainty import paired_difference

COLUMNS = ("idea", "lesion", "without", "with", "gain", "low", "high", "p", "photos", "folds", "changed", "hardware")
FOLDS = 2
RECIPE = dict(
    preset="best",
    data="idrid",
    lesion="all",
    transfer="scratch",
    encoder="vgg16",
    width=0.25,
    diameter=720,
    patch_size=192,
    batch_size=16,
    epochs=2,
    steps_per_epoch=200,
    flips="none",
    patience=100,
    validation=1 / FOLDS,
    split_seed=0,
)
SCREENING = dict(data="idrid+csv", csv="labels.csv")

# idea: what is changed, and whether that takes the idea out of the recipe or puts it in
IDEAS = {
    "mean over mirror images": (dict(flips="all"), "in"),
    "tiles overlap by a quarter": (dict(overlap=0.0), "out"),
    "rich augmentation instead of none": (dict(augmentation="none"), "out"),
    "rich augmentation instead of the paper's": (dict(augmentation="paper"), "out"),
    "cross-entropy and Dice instead of cross-entropy": (dict(loss="bce"), "out"),
    "cross-entropy and Dice instead of focal Tversky": (dict(loss="focal_tversky"), "out"),
    "half of the patches on a lesion instead of wherever": (dict(lesion_share=0.0), "out"),
    "patches of 192 pixels instead of four times as many of 96": (dict(patch_size=96, batch_size=64), "out"),
    "contrast equalization (CLAHE)": (dict(clahe="rgb"), "in"),
    "healthy photographs among the patches": (SCREENING, "in"),
    "a finer scale, 1,440 pixels across the field": (dict(diameter=1440, patch_size=384), "in"),
    "twice the channels": (dict(width=0.5), "in"),
    "three times the steps": (dict(steps_per_epoch=600), "in"),
}


def train(changes: dict, fold: int, given: argparse.Namespace, make: Callable = run_stage2) -> Path:
    """The finished run of the recipe with these changes, on one fold."""
    root = [given.idrid, given.screening] if "csv" in changes else given.idrid
    return make(**RECIPE | changes | dict(data_root=root, fold=fold, seed=given.seed, output=str(given.runs)))


def pooled(folders: list[Path], lesion: str) -> dict[str, PixelHistogram]:
    """Photograph → its histogram, over the folds; no photograph is in two of them."""
    return {
        name: one for folder in folders for name, one in read_histograms(folder / f"{lesion}_histograms.npz").items()
    }


def rows(idea: str, changes: dict, without: list[Path], with_it: list[Path]) -> list[dict]:
    """A row for each lesion."""
    cards, found = [[read_segmenter_card(folder) for folder in side] for side in (without, with_it)], []
    about = dict(
        folds=len(without),
        changed=" ".join(f"{name}={value}" for name, value in changes.items()),
        hardware=cards[1][0].hardware,
    )
    for lesion in cards[0][0].lesions:
        difference = paired_difference(pooled(with_it, lesion), pooled(without, lesion))
        values = (
            difference.second,
            difference.first,
            difference.difference,
            difference.low,
            difference.high,
            difference.p,
        )
        figures = dict(zip(("without", "with", "gain", "low", "high", "p"), (f"{value:.4f}" for value in values)))
        found.append(dict(idea=idea, lesion=lesion, photos=difference.units) | figures | about)
        print(
            f"{idea}, {lesion}: {figures['without']} to {figures['with']}, "
            f"{float(figures['gain']):+.4f} ({figures['low']} to {figures['high']})",
            flush=True,
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--idrid", required=True)
    parser.add_argument("--screening", required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ideas", nargs="+", choices=list(IDEAS), default=list(IDEAS))
    parser.add_argument(
        "--share",
        nargs=2,
        type=int,
        metavar=("K", "N"),
        help="only train the K-th of every N networks, and write no table",
    )
    given = parser.parse_args()
    jobs = [(changes, fold) for changes in ({}, *(IDEAS[idea][0] for idea in given.ideas)) for fold in range(FOLDS)]
    if given.share:
        for changes, fold in jobs[given.share[0] - 1 :: given.share[1]]:
            train(changes, fold, given)
        return
    reference = [train({}, fold, given) for fold in range(FOLDS)]
    written = []
    for idea in given.ideas:
        changes, direction = IDEAS[idea]
        changed = [train(changes, fold, given) for fold in range(FOLDS)]
        written += rows(idea, changes, *((reference, changed) if direction == "in" else (changed, reference)))
    with open(given.table, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(written)


if __name__ == "__main__":
    main()
