"""Two segmenters on the same outlined photographs: exact AUPR of each, and how far the first is ahead.

    python tools/figures/models_compared.py ROOT FIRST SECOND --output compared.csv [--flips none] [--photos NAME ...]

ROOT is the folder of IDRiD, or of what `--data` names; FIRST and SECOND are run folders or `builtin`. Judged are the
photographs that neither model has learned from, of those that the first one names as its validation (or of
`--photos`). Each model is used as its card says, or with the mirror images of `--flips`. A row for each lesion, and
one for their mean, gives both figures, their difference with its 95 % interval (paired, by photograph) and the
processor's seconds for one photograph.
"""

import argparse
import csv
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from retinal_tl.core import LESIONS
from retinal_tl.datasets import Example
from retinal_tl.images import read_photo
from retinal_tl.inference import Run, load_run, segment_photo
from retinal_tl.masks import read_mask
from retinal_tl.metrics import PixelHistogram, coarsen, pixel_histogram
from retinal_tl.readers import open_data
from retinal_tl.uncertainty import interval, paired_difference

COLUMNS = (
    *("lesion", "photographs", "first", "first_low", "first_high", "second", "second_low", "second_high"),
    *("difference", "low", "high", "first_seconds", "second_seconds"),
)
Counts = dict[str, dict[str, PixelHistogram]]  # lesion → photograph → histogram


def judged_by(models: Sequence[Run], photos: Sequence[str]) -> list[str]:
    """Names of the photographs that none of the models has learned from."""
    learned = {Path(name).name.removeprefix("idrid:") for model in models for name in model.card.split.training}
    named = photos or [Path(name).name.removeprefix("idrid:") for name in models[0].card.split.validation]
    return [name for name in named if name not in learned]


def count(model: Run, examples: Sequence[Example], flips: str | None) -> tuple[Counts, float]:
    """The histograms of a model at full size, and the processor's seconds for one photograph."""
    card = model.card if flips is None else replace(model.card, flips=flips)
    counts: Counts = {lesion: {} for lesion in model.lesions}
    seconds = 0.0
    for example in examples:
        photo = read_photo(example.photo)
        begun = time.process_time()
        maps = segment_photo(photo, model.predict, card)
        seconds += time.process_time() - begun
        for lesion, probability in maps.items():
            path = example.masks[lesion]
            mask = np.zeros(probability.shape, bool) if path is None else read_mask(path, probability.shape)
            counts[lesion][example.name] = coarsen(pixel_histogram(probability, mask))
    return counts, seconds / len(examples)


def compare(first: Counts, second: Counts) -> list[dict[str, object]]:
    """A row for each lesion of both models, and one for their mean."""
    shared = [lesion for lesion in LESIONS if lesion in first and lesion in second]
    rows = []
    for lesion in shared:
        ends = [interval(one[lesion]) for one in (first, second)]
        found = paired_difference(first[lesion], second[lesion])
        rows.append(
            dict(lesion=lesion, photographs=found.units, first=found.first, first_low=ends[0][0], first_high=ends[0][1])
            | dict(second=found.second, second_low=ends[1][0], second_high=ends[1][1])
            | dict(difference=found.difference, low=found.low, high=found.high)
        )
    together = paired_difference([first[lesion] for lesion in shared], [second[lesion] for lesion in shared])
    mean = dict(lesion="mean", photographs=together.units, first=together.first, second=together.second)
    return [*rows, mean | dict(difference=together.difference, low=together.low, high=together.high)]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--data", default="idrid")
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--flips", choices=("none", "half_turn", "all"))
    parser.add_argument("--photos", nargs="+", default=[])
    arguments = parser.parse_args(words)
    models = [load_run(name, "segmenter") for name in (arguments.first, arguments.second)]
    wanted = judged_by(models, arguments.photos)
    examples = [one for one in open_data(arguments.data, arguments.root).examples if one.photo.name in wanted]
    if not examples:
        raise SystemExit("There is no photograph that neither model has learned from: name some with --photos.")
    counted = [count(model, examples, arguments.flips) for model in models]
    rows = compare(counted[0][0], counted[1][0])
    rows = [row | dict(first_seconds=counted[0][1], second_seconds=counted[1][1]) for row in rows]
    with arguments.output.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, restval="")
        table.writeheader()
        for row in rows:
            table.writerow({name: f"{value:.4f}" if isinstance(value, float) else value for name, value in row.items()})
    for row in rows:
        ends = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        print(f"{row['lesion']:16} {row['first']:.3f} and {row['second']:.3f}: {ends}, n = {row['photographs']}")
    print(f"{rows[0]['first_seconds']:.1f} and {rows[0]['second_seconds']:.1f} s of one photograph")


if __name__ == "__main__":
    main()
