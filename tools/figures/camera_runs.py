"""Does an idea help on another camera? The runs of a recipe and of an idea, on photographs that neither has seen.

    python tools/figures/camera_runs.py DIARETDB0 results/camera_augmentation.json --runs RUN... --against RUN...

DIARETDB0 says of each photograph which lesions it shows, and not where (see `other_camera.py`). Each run looks once at
each photograph; spots, and the area that a map expects, are the mean over the runs of one side. AUC of both sides, and
the difference, with intervals over the photographs. The data are for measuring only: nothing is chosen here.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from other_camera import auc_of, drawings, middle, read

from retinal_tl.core import LESIONS, write_text
from retinal_tl.images import read_photo
from retinal_tl.inference import at_quality, crop_maps, load_run
from retinal_tl.preprocess import prepare
from retinal_tl.spots import count_spots


def scores(root: Path, images: Sequence[str], folders: Sequence[Path]) -> dict[str, dict[str, np.ndarray]]:
    """Measure → lesion → its value on each photograph, the mean over the runs."""
    runs = [at_quality(load_run(folder, "segmenter"), "fast") for folder in folders]
    found = {measure: {lesion: np.zeros(len(images)) for lesion in LESIONS} for measure in ("spots", "area")}
    for place, image in enumerate(images):
        photo = read_photo(root / "images" / image)
        for run in runs:
            prepared = prepare(photo, run.card.preprocessing)
            maps = crop_maps(prepared, run.predict, run.card)
            spots = count_spots(maps, prepared.inside, run.lesions)
            for i, lesion in enumerate(run.lesions):
                found["spots"][lesion][place] += spots[lesion] / len(runs)
                found["area"][lesion][place] += float(maps[..., i][prepared.inside].sum()) / len(runs)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--against", type=Path, nargs="+", required=True)
    given = parser.parse_args()
    labels = read(given.root / "labels.csv")
    images = [row["image"] for row in labels]
    sides = dict(idea=scores(given.root, images, given.runs), recipe=scores(given.root, images, given.against))
    result: dict = dict(photographs=len(images), runs=[one.name for one in (*given.runs, *given.against)])
    for lesion in LESIONS:
        truth = np.array([int(row[lesion]) for row in labels])
        result[lesion] = dict(positive=int(truth.sum()))
        for measure in ("spots", "area"):
            each = {side: found[measure][lesion] for side, found in sides.items()}
            drawn = drawings(truth, each)
            result[lesion][measure] = {side: auc_of(truth, each[side], drawn[side]) for side in each}
            result[lesion][measure]["gain"] = middle(np.subtract(drawn["idea"], drawn["recipe"]))
            print(lesion, measure, result[lesion][measure], flush=True)
    write_text(given.output, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
