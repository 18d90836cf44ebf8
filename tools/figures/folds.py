"""How good a recipe is on eyes that it has not seen: the runs of its folds, put together.

    python tools/figures/folds.py results/folds.csv runs/stage2-...-61222206 runs/... ... [--against runs/... ...]

The runs differ in nothing but the fold that each was judged on, so that every photograph is judged once, at its own
size, by a network that has not learned from it. The areas and their intervals are of all photographs together, from the
histograms that a run keeps; `apart` says how far the area of a single fold lies from the one in its card, at most.
With `--against`, other runs of the same folds, `gain` is by how much the first are ahead of them, paired by photograph.

    python tools/figures/folds.py results/folds_tried.csv RUN... --against RUN... --idea "contrast equalization"

With `--idea`, a table of ideas is kept: the rows of this one are written anew, those of others stay.
"""

import argparse
import csv
from pathlib import Path

from retinal_tl.cards import SegmenterCard, read_segmenter_card
from retinal_tl.core import RetinalError
from retinal_tl.evaluation import read_histograms
from retinal_tl.folds import largest_share
from retinal_tl.metrics import PixelHistogram, average_precision
from retinal_tl.uncertainty import interval, paired_difference

COLUMNS = (
    *("lesion", "aupr", "low", "high", "photos", "with_lesion", "folds", "apart"),
    *("largest", "largest_share", "aupr_without", "gain", "gain_low", "gain_high", "steps", "seconds", "hardware"),
)


def checked(folders: list[Path]) -> list[SegmenterCard]:
    """The cards of the runs. Raises `RetinalError` unless they are folds of one recipe, and no eye is judged twice."""
    cards = [read_segmenter_card(folder, "RUN") for folder in folders]
    recipes = [{name: value for name, value in card.training.settings.items() if name != "fold"} for card in cards]
    judged = [name for card in cards for name in card.split.validation]
    if any(recipe != recipes[0] for recipe in recipes):
        raise RetinalError("The runs differ in more than their fold; give the runs of one recipe.")
    if len(set(judged)) < len(judged):
        raise RetinalError("Two of the runs were judged on the same photograph; give each fold once.")
    return cards


def histograms(folders: list[Path], lesion: str) -> list[dict[str, PixelHistogram]]:
    """What each run has kept of a lesion: photograph → its histogram."""
    return [read_histograms(folder / f"{lesion}_histograms.npz") for folder in folders]


def together(folds: list[dict[str, PixelHistogram]]) -> dict[str, PixelHistogram]:
    """The photographs of all folds."""
    return {name: one for fold in folds for name, one in fold.items()}


def ahead(photos: dict[str, PixelHistogram], others: dict[str, PixelHistogram]) -> dict[str, str]:
    """By how much the first are ahead, on the same photographs."""
    found = paired_difference(photos, others)
    return dict(gain=f"{found.difference:+.4f}", gain_low=f"{found.low:+.4f}", gain_high=f"{found.high:+.4f}")


def largest(photos: dict[str, PixelHistogram]) -> dict[str, str]:
    """The photograph that holds most of the lesion, its share of all pixels of it, and the area without it."""
    name, share, without = largest_share(photos)
    return dict(largest=name, largest_share=f"{share:.3f}", aupr_without=f"{without:.4f}")


def row(lesion: str, folders: list[Path], cards: list[SegmenterCard], against: list[Path]) -> dict[str, object]:
    """The figures of a lesion, over all folds."""
    each = histograms(folders, lesion)
    photos = together(each)
    area, ends = average_precision(sum(photos.values())), interval(photos, "aupr")
    exact = [card.metrics["validation"][lesion]["aupr"] for card in cards]
    apart = max(abs(average_precision(sum(fold.values())) - one) for fold, one in zip(each, exact, strict=True))
    settings = cards[0].training.settings
    return (
        dict(
            lesion=lesion,
            aupr=f"{area:.4f}",
            low=f"{ends[0]:.4f}",
            high=f"{ends[1]:.4f}",
            photos=len(photos),
            with_lesion=sum(one.lesion > 0 for one in photos.values()),
            folds=len(cards),
            apart=f"{apart:.4f}",
            steps=settings["epochs"] * settings["steps_per_epoch"],
            seconds=round(sum(card.training.seconds for card in cards)),
            hardware=cards[0].hardware,
        )
        | largest(photos)
        | (ahead(photos, together(histograms(against, lesion))) if against else {})
    )


def write(path: Path, rows: list[dict], idea: str | None) -> None:
    """The table: of these rows alone, or of these and the ideas that it has already."""
    kept: list[dict] = []
    if idea and path.exists():
        kept = [one for one in csv.DictReader(path.open(newline="", encoding="utf-8")) if one["idea"] != idea]
    new = [dict(idea=idea) | one for one in rows] if idea else rows
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, (("idea",) if idea else ()) + COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(kept + new)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--against", type=Path, nargs="+", default=[])
    parser.add_argument("--idea", help="what is different in these runs")
    given = parser.parse_args()
    cards = checked(given.runs)
    rows = [row(lesion, given.runs, cards, given.against) for lesion in cards[0].lesions]
    write(given.table, rows, given.idea)
    for one in rows:
        print(
            f"{one['lesion']:16} {one['aupr']} ({one['low']} to {one['high']}), {one['with_lesion']} of {one['photos']}"
        )
    print(f"mean {sum(float(str(one['aupr'])) for one in rows) / len(rows):.4f}")


if __name__ == "__main__":
    main()
