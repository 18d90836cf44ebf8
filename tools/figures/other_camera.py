"""Do the built-in models carry over to another camera? AUC of the maps' highest places, lesion by lesion.

    python tools/figures/other_camera.py DIARETDB0 results/other_camera.csv
    python tools/figures/other_camera.py DIARETDB0 results/other_camera.csv --judge results/other_camera.json

DIARETDB0 says of each photograph which lesions it shows, and not where. So a map is judged by the highest probability
in it that holds over five pixels of the crop: it should be higher where the lesion is. The first line writes a row as
each photograph is done, in an order drawn beforehand, and a second start does what is missing; every network looks
once. The second line reckons the AUC of each network and of both together, with intervals and paired differences over
the photographs in the table. The data are for measuring only: nothing is chosen here.
"""

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from retinal_tl.core import LESIONS, write_text
from retinal_tl.images import read_photo
from retinal_tl.inference import Run, crop_maps, load_run, mean_of_odds
from retinal_tl.preprocess import Prepared, prepare

WAYS = ("large", "fast", "joined")
COLUMNS = ("image", *(f"{way}_{lesion}" for way in WAYS for lesion in LESIONS))
PLACE = 5  # pixels that hold the highest probability


def highest(maps: np.ndarray, inside: np.ndarray) -> list[float]:
    """Of float32 (side, side, lesions), the fifth highest probability of each lesion in the field of view."""
    flat = maps[inside]
    return [float(value) for value in np.partition(flat, -PLACE, axis=0)[-PLACE]]


def row_of(prepared: Prepared, run: Run) -> dict[str, str]:
    """The highest probabilities of one photograph."""
    maps = [
        crop_maps(prepared, member.predict, replace(member.card, flips="none"))  # float32 (side, side, lesions)
        for member in run.members
    ]
    found = zip(WAYS, [*maps, mean_of_odds(maps)])
    return {
        f"{way}_{lesion}": f"{value:.6g}"
        for way, each in found
        for lesion, value in zip(run.card.lesions, highest(each, prepared.inside))
    }


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def measure(root: Path, table: Path) -> None:
    """Fill the table."""
    run = load_run("builtin", "segmenter")
    names = [row["image"] for row in read(root / "labels.csv")]
    done = {row["image"] for row in read(table)} if table.exists() else set()
    with open(table, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if not done:
            writer.writeheader()
        for place in np.random.default_rng(0).permutation(len(names)):
            if names[place] not in done:
                prepared = prepare(read_photo(root / "images" / names[place]), run.card.preprocessing)
                writer.writerow(dict(image=names[place]) | row_of(prepared, run))
                file.flush()


def judge(rows: Sequence[Mapping[str, str]], labels: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """AUC by lesion of each way, and how far both together are ahead of the large one alone."""
    rng, result = np.random.default_rng(0), dict[str, Any](photographs=len(rows))
    for lesion in LESIONS:
        truth = np.array([int(labels[row["image"]][lesion]) for row in rows])
        scores = {way: np.array([float(row[f"{way}_{lesion}"]) for row in rows]) for way in WAYS}
        drawn: dict[str, list[float]] = {way: [] for way in WAYS}
        while len(drawn["joined"]) < 2000:
            places = rng.integers(0, len(truth), len(truth))
            if 0 < truth[places].sum() < len(truth):
                for way in WAYS:
                    drawn[way].append(roc_auc_score(truth[places], scores[way][places]))
        ends = lambda values: [round(float(end), 3) for end in np.percentile(values, [2.5, 97.5])]
        result[lesion] = dict(positive=int(truth.sum())) | {
            way: dict(auc=round(float(roc_auc_score(truth, scores[way])), 3), interval=ends(drawn[way])) for way in WAYS
        }
        result[lesion]["joined_minus_large"] = ends(np.subtract(drawn["joined"], drawn["large"]))
    return result


def main(words: Sequence[str] | None = None) -> None:
    """Read the words of the command and work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("--judge", type=Path, help="write the figures into this file, from the table as it is")
    given = parser.parse_args(words)
    if given.judge is None:
        measure(given.root, given.table)
        return
    found = judge(read(given.table), {row["image"]: row for row in read(given.root / "labels.csv")})
    write_text(given.judge, json.dumps(found, indent=1) + "\n")
    for lesion in LESIONS:
        ways = ", ".join(f"{way} {found[lesion][way]['auc']:.3f}" for way in WAYS)
        print(f"{lesion}: {ways} ({found[lesion]['positive']} of {found['photographs']} photographs)")


if __name__ == "__main__":
    main()
