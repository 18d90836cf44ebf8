"""One model on every engine that is installed: exact AUPR of each, and the processor's time.

    python tools/figures/engines.py IDRiD builtin builtin-fast --output results/engines.csv

IDRiD is the folder of the outlined photographs. Judged are those that chose each model's thresholds and that it has not
learned from, at full size. Each photograph is prepared once and shown to one engine after the other, so what else the
machine was doing costs all of them alike. A row for each model, engine and lesion, and one for the mean: the AUPR, how
far that is from ONNX Runtime's, the seconds and processor seconds of a photograph's network and way back, and the
largest and mean difference of a probability.
"""

import argparse
import csv
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from models_compared import judged_by

from retinal_tl.datasets import Example
from retinal_tl.engines import engines_here, on_engine
from retinal_tl.images import read_photo
from retinal_tl.inference import Run, load_run, segment_prepared
from retinal_tl.masks import read_mask
from retinal_tl.metrics import PixelHistogram, average_precision, pixel_histogram
from retinal_tl.preprocess import prepare
from retinal_tl.readers import open_data

FIRST = "onnxruntime"  # what the others are held against
COLUMNS = (
    *("model", "engine", "lesion", "photographs", "aupr", "apart", "seconds", "processor_seconds"),
    *("largest_difference", "mean_difference"),
)


def measure(name: str, examples: Sequence[Example]) -> list[dict[str, object]]:
    """The rows of one model."""
    plain = load_run(name, "segmenter")
    runs: dict[str, Run] = {FIRST: plain} | {
        one.engine: one for one in (on_engine(plain, engine) for engine in engines_here() if engine != FIRST)
    }
    totals: dict[tuple[str, str], PixelHistogram] = {}
    seconds = {engine: [0.0, 0.0] for engine in runs}
    differences: dict[str, list[tuple[float, float]]] = {engine: [] for engine in runs}
    for example in examples:
        prepared, first = prepare(read_photo(example.photo), plain.card.preprocessing), {}
        for engine, run in runs.items():
            begun = time.monotonic(), time.process_time()
            maps = segment_prepared(prepared, run.predict, run.card)
            seconds[engine][0] += time.monotonic() - begun[0]
            seconds[engine][1] += time.process_time() - begun[1]
            first = first or maps
            for lesion, probability in maps.items():
                path = example.masks[lesion]
                mask = np.zeros(probability.shape, bool) if path is None else read_mask(path, probability.shape)
                counted = pixel_histogram(probability, mask)
                key = engine, lesion
                totals[key] = totals[key] + counted if key in totals else counted
                apart = np.abs(probability - first[lesion])
                differences[engine].append((float(apart.max()), float(apart.mean())))
    rows: list[dict[str, object]] = []
    reference: dict[str, float] = {}
    for engine in runs:
        figures = {lesion: average_precision(totals[engine, lesion]) for lesion in plain.lesions}
        figures["mean"] = float(np.mean(list(figures.values())))
        reference = reference or figures
        largest, means = np.array(differences[engine]).T
        shared = dict(model=name, engine=engine, photographs=len(examples))
        shared |= dict(seconds=seconds[engine][0] / len(examples), processor_seconds=seconds[engine][1] / len(examples))
        shared |= dict(largest_difference=largest.max(), mean_difference=means.mean())
        rows += [
            shared | dict(lesion=lesion, aupr=value, apart=value - reference[lesion])
            for lesion, value in figures.items()
        ]
    return rows


def main(words: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(words)
    every = open_data("idrid", arguments.root).examples
    rows = []
    for name in arguments.models:
        wanted = judged_by([load_run(name, "segmenter")], [])
        rows += measure(name, [one for one in every if one.photo.name in wanted])
    with arguments.output.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for row in rows:
            table.writerow({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()})
    for row in rows:
        if row["lesion"] == "mean":
            print(
                f"{row['model']:14} {row['engine']:20} AUPR {row['aupr']:.4f} ({row['apart']:+.4f}), "
                f"{row['seconds']:.1f} s and {row['processor_seconds']:.1f} processor seconds a photograph"
            )


if __name__ == "__main__":
    main()
