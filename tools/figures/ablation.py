"""What one idea changes: two ways of outlining the same photographs, as rows of a table with paired intervals.

    python tools/figures/ablation.py results/ablation.csv "mean over mirror images" RUN RUN \\
        --data idrid --data-root ../shared/data/IDRiD --off 'flips="none"' --on 'flips="all"'

The first run is without the idea, the second with it; --off and --on change entries of their cards. Only photographs
that neither run has learned from are measured, each at its own size. Rows of an idea that is in the table already are
replaced. The histograms that a run has kept are taken where nothing of its card is changed; others are kept in
runs/ablation, so that a second call is fast.
"""

import argparse
import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from retinal_tl.batches import read_lesion
from retinal_tl.cards import read_segmenter_card
from retinal_tl.core import RetinalError
from retinal_tl.evaluation import read_histograms
from retinal_tl.inference import Run, load_run, segment_prepared
from retinal_tl.metrics import PixelHistogram, coarsen, pixel_histogram, quantize
from retinal_tl.preprocess import prepare_file
from retinal_tl.readers import open_data
from retinal_tl.uncertainty import paired_difference

COLUMNS = ("idea", "lesion", "without", "with", "gain", "low", "high", "p", "photos", "off", "on", "run_off", "run_on")
KEPT = Path("runs") / "ablation"


def changed(run: Run, changes: list[str]) -> Run:
    """The run with other entries in its card, given as name=JSON."""
    entries = {name: json.loads(value) for name, _, value in (change.partition("=") for change in changes)}
    return Run(run.folder, replace(run.card, **entries), run.session)


def opened(folder: str, changes: list[str]) -> Run:
    """The run with the changes; where there are none and it has kept its histograms, its model need not be there."""
    run = Run(Path(folder), read_segmenter_card(folder, "the run"), None)
    return run if not changes and all(of_run(run).values()) else changed(load_run(folder, "segmenter"), changes)


def histograms(run: Run, examples: list, cache: Path) -> dict[str, dict[str, PixelHistogram]]:
    """lesion → photograph → its histogram, from maps of the photographs' own size."""
    what = [
        run.card.files,
        [run.card.tile, run.card.overlap, run.card.flips, vars(run.card.preprocessing)],
        [example.name for example in examples],
    ]
    kept = KEPT / f"{hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]}.npz"
    if not kept.exists():
        counts = {lesion: [] for lesion in run.card.lesions}
        for example in examples:
            prepared = prepare_file(example.photo, run.card.preprocessing, cache)
            for lesion, probability in segment_prepared(prepared, run.predict, run.card).items():
                mask = read_lesion(example, lesion, probability.shape)
                one = coarsen(pixel_histogram(quantize(probability), mask))
                counts[lesion].append(one.counts)
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(kept, levels=one.levels, **{lesion: np.stack(each) for lesion, each in counts.items()})
    with np.load(kept, allow_pickle=False) as found:
        return {
            lesion: {
                example.name: PixelHistogram(counts, found["levels"])
                for example, counts in zip(examples, found[lesion])
            }
            for lesion in run.card.lesions
        }


def of_run(run: Run) -> dict[str, dict[str, PixelHistogram] | None]:
    """The same, as the run has kept them; None where it has not."""
    return {lesion: _kept(run.folder / f"{lesion}_histograms.npz") for lesion in run.lesions}


def _kept(path: Path) -> dict[str, PixelHistogram] | None:
    """The histograms in a file, if it is there."""
    return read_histograms(path) if path.exists() else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("idea")
    parser.add_argument("runs", nargs=2, metavar="RUN")
    parser.add_argument("--off", nargs="*", default=[], metavar="NAME=JSON")
    parser.add_argument("--on", nargs="*", default=[], metavar="NAME=JSON")
    parser.add_argument("--data", default="idrid")
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--cache", type=Path, default=Path("runs") / "cache")
    given = parser.parse_args()
    off, on = (opened(run, changes) for run, changes in zip(given.runs, (given.off, given.on)))
    if set(off.card.split.validation) != set(on.card.split.validation):
        raise RetinalError("The two runs were judged on other photographs; give runs of one split.")
    examples = [
        example
        for example in open_data(given.data, given.data_root).examples
        if example.name in set(off.card.split.validation)
    ]
    kept = [
        dict.fromkeys(run.lesions) if changes else of_run(run) for run, changes in ((off, given.off), (on, given.on))
    ]
    without, with_it = (
        histograms(run, examples, given.cache) if None in found.values() else found
        for run, found in zip((off, on), kept)
    )
    rows = []
    if given.table.exists():
        with open(given.table, newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["idea"] != given.idea]
    for lesion in [lesion for lesion in off.lesions if lesion in on.lesions]:
        found = paired_difference(with_it[lesion], without[lesion])
        figures = dict(
            zip(
                ("without", "with", "gain", "low", "high", "p"),
                (
                    f"{value:.4f}"
                    for value in (found.second, found.first, found.difference, found.low, found.high, found.p)
                ),
            )
        )
        rows.append(
            dict(
                idea=given.idea,
                lesion=lesion,
                photos=found.units,
                off=" ".join(given.off),
                on=" ".join(given.on),
                run_off=off.card.name,
                run_on=on.card.name,
            )
            | figures
        )
        print(
            f"{lesion}: {figures['without']} → {figures['with']}, "
            f"{float(figures['gain']):+.4f} ({figures['low']} to {figures['high']})"
        )
    with open(given.table, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main()
