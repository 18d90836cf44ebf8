"""Do the built-in models carry over to another camera? AUC of the spots on their maps, lesion by lesion.

    python tools/figures/other_camera.py DIARETDB0 results/other_camera.csv
    python tools/figures/other_camera.py DIARETDB0 results/other_camera.csv --judge results/other_camera.json

DIARETDB0 says of each photograph which lesions it shows, and not where. So a map is judged by the number of spots in it
(`count_spots`) and by the area that it expects, the sum of its probabilities: both should be larger where the lesion
is. The first line writes a row as each photograph is done, in an order drawn beforehand, and a second start does what
is missing; every network looks once. The second line reckons the AUC of each network and of both together, with
intervals and paired differences over the photographs in the table, and that of the built-in classifier, which counts
the spots of the fast one. The data are for measuring only: nothing is chosen here.
"""

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from retinal_tl.core import LESIONS, write_text
from retinal_tl.images import read_photo
from retinal_tl.inference import Run, at_quality, crop_maps, load_run, mean_of_odds
from retinal_tl.preprocess import Prepared, prepare
from retinal_tl.spots import count_spots, read_spots

WAYS = ("large", "fast", "joined")
MEASURES = ("spots", "area")
COLUMNS = ("image", *(f"{way}_{lesion}_{measure}" for way in WAYS for lesion in LESIONS for measure in MEASURES))


def row_of(prepared: Prepared, run: Run) -> dict[str, str]:
    """What the maps of one photograph show."""
    maps = [
        crop_maps(prepared, member.predict, member.card)  # float32 (side, side, lesions)
        for member in (at_quality(one, "fast") for one in run.members)
    ]
    row = {}
    for way, found in zip(WAYS, [*maps, mean_of_odds(maps)]):
        spots = count_spots(found, prepared.inside, run.lesions)
        for i, lesion in enumerate(run.lesions):
            row[f"{way}_{lesion}_spots"] = str(spots[lesion])
            row[f"{way}_{lesion}_area"] = f"{found[..., i][prepared.inside].sum():.6g}"
    return row


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
    """AUC by lesion of each way and measure, how far both together are ahead of the large one, and the classifier's."""
    result = dict[str, Any](photographs=len(rows))
    for lesion in LESIONS:
        truth = np.array([int(labels[row["image"]][lesion]) for row in rows])
        result[lesion] = dict(positive=int(truth.sum()))
        for measure in MEASURES:
            scores = {way: np.array([float(row[f"{way}_{lesion}_{measure}"]) for row in rows]) for way in WAYS}
            drawn = drawings(truth, scores)
            result[lesion][measure] = {way: auc_of(truth, scores[way], drawn[way]) for way in WAYS}
            ahead = np.subtract(drawn["joined"], drawn["large"])
            result[lesion][measure]["joined_minus_large"] = middle(ahead)
    card = load_run("builtin", "classifier").card
    truth = np.array([int(labels[row["image"]]["lesion"]) for row in rows])
    spots = [{lesion: int(row[f"fast_{lesion}_spots"]) for lesion in LESIONS} for row in rows]
    answers = np.array([read_spots(card.readings[0], one) for one in spots])
    result["classifier"] = dict(positive=int(truth.sum())) | auc_of(
        truth, answers, drawings(truth, dict(it=answers))["it"]
    )
    return result


def drawings(truth: np.ndarray, scores: Mapping[str, np.ndarray], count: int = 2000) -> dict[str, list[float]]:
    """The AUC over drawings of as many photographs, with replacement, the same ones for all scores."""
    rng, drawn = np.random.default_rng(0), {name: list[float]() for name in scores}
    while any(len(values) < count for values in drawn.values()):
        places = rng.integers(0, len(truth), len(truth))
        if 0 < truth[places].sum() < len(truth):
            for name, score in scores.items():
                drawn[name].append(roc_auc_score(truth[places], score[places]))
    return drawn


def auc_of(truth: np.ndarray, score: np.ndarray, drawn: Sequence[float]) -> dict[str, Any]:
    """AUC and its interval."""
    return dict(auc=round(float(roc_auc_score(truth, score)), 3), interval=middle(drawn))


def middle(values: Sequence[float] | np.ndarray) -> list[float]:
    """The middle 95 %."""
    return [round(float(end), 3) for end in np.percentile(values, [2.5, 97.5])]


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
        ways = ", ".join(f"{way} {found[lesion]['spots'][way]['auc']:.3f}" for way in WAYS)
        print(f"{lesion}: {ways} ({found[lesion]['positive']} of {found['photographs']} photographs)")
    print(f"classifier: {found['classifier']['auc']:.3f} {found['classifier']['interval']}")


if __name__ == "__main__":
    main()
