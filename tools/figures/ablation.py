"""What one idea changes: two ways of outlining the same photographs, as rows of a table with paired intervals.

    python tools/figures/ablation.py results/ablation.csv "mean over mirror images" RUN RUN \\
        --data idrid --data-root ../shared/data/IDRiD --off flips=none --on flips=all

The first run is without the idea, the second with it; --off and --on change entries of their cards. Only photographs
that neither run has learned from are measured, each at its own size. Rows of an idea that is in the table already are
replaced. The histograms that a run has kept are taken where nothing of its card is changed; others are kept in
runs/ablation, so that a second call is fast.
"""

import argparse
import csv
import hashlib
import json
import sys
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from retinal_tl.cards import SegmenterCard, card_to_json, read_segmenter_card
from retinal_tl.core import RetinalError, check_name, printable
from retinal_tl.datasets import Example
from retinal_tl.evaluation import read_histograms
from retinal_tl.inference import Run, load_run, segment_prepared
from retinal_tl.masks import read_mask
from retinal_tl.metrics import PixelHistogram, coarsen, pixel_histogram, quantize
from retinal_tl.preprocess import prepare_file
from retinal_tl.readers import open_data
from retinal_tl.uncertainty import paired_difference

COLUMNS = ("idea", "lesion", "without", "with", "gain", "low", "high", "p", "photos", "off", "on", "run_off", "run_on")
KEPT = Path("runs") / "ablation"
Histograms = dict[str, dict[str, PixelHistogram]]  # lesion → photograph → its histogram


def entries(changes: list[str]) -> dict[str, object]:
    """Entries of a card, given as name=JSON or name=text."""
    found: dict[str, object] = {}
    for name, _, value in (change.partition("=") for change in changes):
        check_name("entry of the card", name, [field.name for field in fields(SegmenterCard)])
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


def kept_by_run(folder: Path, card: SegmenterCard) -> Histograms | None:
    """The histograms of the validation photographs that a run has kept; None if it has not."""
    files = {lesion: folder / f"{lesion}_histograms.npz" for lesion in card.lesions}
    if not all(file.exists() for file in files.values()):
        return None
    return {lesion: read_histograms(file) for lesion, file in files.items()}


def count(run: Run, examples: list[Example], cache: Path) -> Histograms:
    """The same, from maps of the photographs' own size."""
    found: Histograms = {lesion: {} for lesion in run.lesions}
    for example in examples:
        prepared = prepare_file(example.photo, run.card.preprocessing, cache)
        for lesion, probability in segment_prepared(prepared, run.predict, run.card).items():
            path = example.masks[lesion]
            mask = np.zeros(probability.shape, bool) if path is None else read_mask(path, probability.shape)
            found[lesion][example.name] = coarsen(pixel_histogram(quantize(probability), mask))
    return found


def counted(run: Run, examples: list[Example], cache: Path) -> Histograms:
    """The same, counted once and then kept in `KEPT`."""
    card = card_to_json(run.card)
    what = [{name: card[name] for name in ("files", "tile", "overlap", "flips", "preprocessing")}]
    what += [sorted(example.name for example in examples)]
    path = KEPT / f"{hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]}.npz"
    if not path.exists():
        found = count(run, examples, cache)
        levels = next(one.levels for each in found.values() for one in each.values())
        counts = {lesion: np.stack([one.counts for one in each.values()]) for lesion, each in found.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, names=list(next(iter(found.values()))), levels=levels, **counts)
    with np.load(path, allow_pickle=False) as read:
        names, levels = [str(name) for name in read["names"]], read["levels"]
        return {
            lesion: {name: PixelHistogram(one, levels) for name, one in zip(names, read[lesion])}
            for lesion in run.lesions
        }


def histograms(folder: Path, changes: list[str], examples: list[Example], cache: Path) -> Histograms:
    """Of a run with other entries in its card; what it has kept itself serves where nothing is changed."""
    card = read_segmenter_card(folder, "RUN")
    kept = None if changes else kept_by_run(folder, card)
    if kept is not None:
        return kept
    run = load_run(folder, "segmenter")
    return counted(replace(run, card=replace(run.card, **entries(changes))), examples, cache)


def figures_of(with_it: dict[str, PixelHistogram], without: dict[str, PixelHistogram]) -> dict:
    """The columns of a table that are measured."""
    found = paired_difference(with_it, without)
    values = (found.second, found.first, found.difference, found.low, found.high, found.p)
    names = ("without", "with", "gain", "low", "high", "p")
    return {name: f"{value:.4f}" for name, value in zip(names, values)} | dict(photos=found.units)


def read_rows(table: Path, idea: str) -> list[dict]:
    """The rows of a table that are of other ideas; none if there is no table yet."""
    if not table.exists():
        return []
    with open(table, newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["idea"] != idea]


def write_rows(table: Path, rows: Iterable[dict]) -> None:
    """Write a table anew."""
    with open(table, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("idea")
    parser.add_argument("runs", nargs=2, metavar="RUN", type=Path)
    parser.add_argument("--off", nargs="*", default=[], metavar="NAME=JSON")
    parser.add_argument("--on", nargs="*", default=[], metavar="NAME=JSON")
    parser.add_argument("--data", default="idrid")
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--cache", type=Path, default=Path("runs") / "cache")
    return parser.parse_args()


def measure(given: argparse.Namespace) -> list[dict]:
    """The rows of an idea, one for each lesion that both runs outline."""
    off, on = cards = [read_segmenter_card(folder, "RUN") for folder in given.runs]
    judged = set(off.split.validation)
    if judged != set(on.split.validation):
        raise RetinalError("The two runs were judged on different photographs; give runs of one split.")
    examples = [one for one in open_data(given.data, given.data_root).examples if one.name in judged]
    if len(examples) < len(judged):
        raise RetinalError(
            f"{len(judged) - len(examples)} of the {len(judged)} photographs that the runs were judged on are not in "
            f"{printable(given.data_root)}; give the folder they come from."
        )
    changes = (given.off, given.on)
    without, with_it = (histograms(*what, examples, given.cache) for what in zip(given.runs, changes))
    about = dict(idea=given.idea, run_off=cards[0].name, run_on=cards[1].name)
    about |= dict(off=" ".join(given.off), on=" ".join(given.on))
    shared = [lesion for lesion in off.lesions if lesion in on.lesions]
    return [about | dict(lesion=lesion) | figures_of(with_it[lesion], without[lesion]) for lesion in shared]


def main() -> int:
    given = parse()
    try:
        rows = measure(given)
    except RetinalError as error:
        print(error, file=sys.stderr)
        return 1
    for row in rows:
        print(f"{row['lesion']}: {row['without']} → {row['with']}, {row['gain']} ({row['low']} to {row['high']})")
    write_rows(given.table, read_rows(given.table, given.idea) + rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
