"""Does the risk of macular edema, as exudates and the fovea give it, agree with the graders of IDRiD?

    python tools/figures/edema_risk.py DR-screening --output results/edema_risk.csv --maps maps [--sample 40]
        [--flips none] [--model builtin-fast] [--figures results/edema_risk.json]
    python tools/figures/edema_risk.py DR-screening --output boxes.csv --boxes

The first runs a segmenter (the built-in one unless `--model` names another) over the photographs; its maps of
exudates are kept in the folder `--maps`. The second takes the boxes of experts (CODRAS) instead and so tests the
landmarks alone. A row is written as each photograph is done, and a second start does what is missing. Then quadratic
kappa is printed, with its interval by bootstrap over the photographs for which a risk is given.

Half of the eyes, drawn with a fixed seed, are there to look at and to choose rules on: their rows say `choose`. The
others judge. `learned` is 1 where a built-in model has learned from that eye, or was chosen by it.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from retinal_tl.cards import SegmenterCard
from retinal_tl.core import BUILTIN, run_folder, write_text
from retinal_tl.images import read_photo, write_png
from retinal_tl.inference import Run, load_segmenters, segment
from retinal_tl.landmarks import find_landmarks
from retinal_tl.leakage import find_same_eyes, join_signatures, seen_signatures
from retinal_tl.places import PLACE_COLUMNS, place_cells

COLUMNS = ("image", "half", "learned", "graders", "threshold", *PLACE_COLUMNS)
PARTS = ("training", "validation")
FIRST_TRIED = 40  # photographs of the sample on which `LEAST` and `SPECK` were chosen, before there were halves


def draw(rows: Sequence[Mapping[str, str]], count: int, seed: int = 0) -> list[Mapping[str, str]]:
    """So many photographs at random, of each risk as large a share as in all."""
    rng, drawn = np.random.default_rng(seed), []
    for risk in ("0", "1", "2"):
        of_risk = [row for row in rows if row["macular_edema_risk"] == risk]
        places = rng.permutation(len(of_risk))[: round(count * len(of_risk) / len(rows))]
        drawn += [of_risk[i] for i in sorted(places)]
    return drawn


def eyes_of(rows: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """For each photograph one of those of its eye, by the signatures that travel with the built-in classifier."""
    names = [row["image"] for row in rows]
    eyes = dict(zip(names, names))

    def first(name: str) -> str:
        while eyes[name] != name:
            name = eyes[name]
        return name

    known = join_signatures(*(seen_signatures(run_folder(BUILTIN).parent / "classifier", part) for part in PARTS))
    for pair in find_same_eyes(known.only([f"csv:{name}" for name in names if f"csv:{name}" in known.names])):
        eyes[first(pair.first.removeprefix("csv:"))] = first(pair.second.removeprefix("csv:"))
    outlined: dict[str, str] = {}
    for row in rows:
        if (eye := row["idrid_segmentation_image"]) and outlined.setdefault(eye, row["image"]) != row["image"]:
            eyes[first(row["image"])] = first(outlined[eye])
    return {name: first(name) for name in names}


def halves(eyes: Mapping[str, str], seed: int = 19) -> dict[str, str]:
    """`choose` or `judge` for each photograph; those of one eye stay together."""
    of_all = np.array(sorted(set(eyes.values())))
    chosen = set(np.random.default_rng(seed).permutation(of_all)[: len(of_all) // 2].tolist())
    return {name: "choose" if eye in chosen else "judge" for name, eye in eyes.items()}


def learned_from(rows: Sequence[Mapping[str, str]], eyes: Mapping[str, str], folder: Path) -> set[str]:
    """The photographs whose eyes a model has learned from or was chosen by."""
    seen = {name for part in PARTS for name in seen_signatures(folder, part).names}
    known = {
        eyes[row["image"]]
        for row in rows
        if f"csv:{row['image']}" in seen or f"idrid:{row['idrid_segmentation_image']}.jpg" in seen
    }
    return {name for name, eye in eyes.items() if eye in known}


def quadratic_kappa(first: np.ndarray, second: np.ndarray, grades: int = 3) -> float:
    """Agreement of two graders beyond chance (Cohen 1968): 1 is perfect, and two grades off cost four times one."""
    seen = np.zeros((grades, grades))
    np.add.at(seen, (first, second), 1)
    cost = np.subtract.outer(np.arange(grades), np.arange(grades)) ** 2
    chance = np.outer(seen.sum(1), seen.sum(0)) / seen.sum()
    return float(1 - (cost * seen).sum() / (cost * chance).sum()) if (cost * chance).any() else float("nan")


def kappa_interval(first: np.ndarray, second: np.ndarray, n: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The middle 95 % of kappa over drawings of as many photographs, with replacement."""
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(0, len(first), len(first)) for _ in range(n))
    low, high = np.nanpercentile([quadratic_kappa(first[i], second[i]) for i in drawn], [2.5, 97.5])
    return float(low), float(high)


def mask_of_boxes(boxes: Iterable[Mapping[str, str]], shape: tuple[int, int]) -> np.ndarray:
    """The ellipses in boxes, as bool (height, width): the corners of a box hold no exudate."""
    mask = np.zeros(shape, np.uint8)
    scale = np.array([shape[1], shape[0]])
    for box in boxes:
        center, axes = (
            [float(box[name]) for name in names] for names in (("center_x", "center_y"), ("width", "height"))
        )
        place, half = np.rint(center * scale).astype(int), np.maximum(np.rint(axes * scale / 2).astype(int), 1)
        cv2.ellipse(mask, place.tolist(), half.tolist(), 0, 0, 360, 1, -1)
    return mask > 0


def mask_of_maps(photo: np.ndarray, runs: Sequence[Run], file: Path, threshold: float) -> np.ndarray:
    """Where a segmenter sees exudates; its map is kept in a file with 8 bits, and read from there the next time."""
    if not file.exists():
        write_png(file, np.rint(segment(photo, runs)["exudates"] * 255).astype(np.uint8))
    return cv2.imread(str(file), cv2.IMREAD_UNCHANGED) >= round(255 * threshold)


def segmenters(model: str | None, flips: str | None) -> list[Run[SegmenterCard]]:
    """The run that outlines exudates, with as many views of each photograph as were asked for."""
    runs = load_segmenters([model or "builtin"])
    if flips:
        runs = [replace(run, card=replace(run.card, flips=flips)) for run in runs]
    return [run for run in runs if "exudates" in run.lesions]


def measure(data: Path, rows: Sequence[Mapping[str, str]], output: Path, arguments: argparse.Namespace) -> None:
    """Write a row for each photograph that has none yet."""
    done = {row["image"] for row in read_rows(output)} if output.exists() else set()
    boxes = [box for box in read_rows(data / "boxes.csv") if box["object"] == "hard_exudates"]
    runs = [] if arguments.boxes else segmenters(arguments.model, arguments.flips)
    threshold = arguments.threshold or (runs[0].thresholds["exudates"] if runs else 0.5)
    every = read_rows(data / "labels.csv")
    eyes = eyes_of(every)
    half, learned = halves(eyes), learned_from(every, eyes, runs[0].folder) if runs else set()
    output.parent.mkdir(parents=True, exist_ok=True)
    with open(output, "a", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not file.tell():
            table.writeheader()
        for row in rows:
            if row["image"] in done:
                continue
            photo, name = read_photo(data / row["image"]), Path(row["image"]).name
            if arguments.boxes:
                mask = mask_of_boxes([box for box in boxes if box["image"] == name], photo.shape[:2])
            else:
                mask = mask_of_maps(photo, runs, arguments.maps / f"{Path(name).stem}.png", threshold)
            cells = place_cells({"exudates": mask}, find_landmarks(photo))
            about = dict(image=row["image"], half=half[row["image"]], learned=int(row["image"] in learned))
            about |= dict(graders=row["macular_edema_risk"], threshold=round(threshold, 4))
            table.writerow(about | cells)
            file.flush()


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def agreement(rows: Sequence[Mapping[str, str]]) -> dict[str, object]:
    """How far the risks agree: kappa with its interval, and the table of graders (rows) against ours (columns)."""
    given = [row for row in rows if row["edema_risk"] != ""]
    graders, ours = (np.array([int(row[name]) for row in given], int) for name in ("graders", "edema_risk"))
    table = [np.bincount(ours[graders == grade], minlength=3).tolist() for grade in range(3)]
    kappa, (low, high) = quadratic_kappa(graders, ours), kappa_interval(graders, ours)
    number = lambda value: None if np.isnan(value) else round(float(value), 3)  # not defined where all are of one risk
    about = dict(photographs=len(rows), given=len(given), kappa=number(kappa))
    return about | dict(interval=[number(low), number(high)], table=table)


def judge(rows: Sequence[Mapping[str, str]], tried: set[str]) -> dict[str, dict[str, object]]:
    """The agreement on all photographs, and on those parts of them that a rule or a model has not seen before."""
    new = [row for row in rows if row["learned"] == "0"]
    parts = {
        "all": rows,
        "eyes that the model has not learned from": new,
        "those, without the first tried": [row for row in new if row["image"] not in tried],
        "the half to choose on": [row for row in rows if row["half"] == "choose"],
        "the half to judge on": [row for row in rows if row["half"] == "judge"],
        "of it, eyes that the model has not learned from": [row for row in new if row["half"] == "judge"],
    }
    return {name: agreement(part) for name, part in parts.items() if any(row["edema_risk"] != "" for row in part)}


def tell(figures: Mapping[str, Mapping[str, object]]) -> None:
    """Print how far the risks agree."""
    for name, about in figures.items():
        print(
            f"{name}: given for {about['given']} of {about['photographs']}, quadratic kappa {about['kappa']}", end=" "
        )
        print(f"{about['interval']}; ours 0, 1, 2 for graders' 0, 1, 2: {about['table']}")


def main() -> None:
    about, _, words = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=words, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with images, labels.csv and boxes.csv")
    parser.add_argument("--output", type=Path, required=True, help="CSV, a row for each photograph; grows")
    parser.add_argument("--maps", type=Path, default=Path("maps"), help="folder for the maps of exudates")
    parser.add_argument("--model", help="run folder of stage 2 that outlines exudates (default: the built-in one)")
    parser.add_argument("--flips", help="none, half_turn or all: how many views of a photograph (default: the card's)")
    parser.add_argument(
        "--threshold", type=float, help="an exudate has at least this probability (default: the card's)"
    )
    parser.add_argument("--sample", type=int, help="this many photographs, drawn with a fixed seed (default: all)")
    parser.add_argument("--boxes", action="store_true", help="take the boxes of experts instead of a segmenter")
    parser.add_argument("--figures", type=Path, help="JSON that the agreement is written into")
    arguments = parser.parse_args()
    labels = read_rows(arguments.data / "labels.csv")
    rows = draw(labels, arguments.sample) if arguments.sample else labels
    measure(arguments.data, rows, arguments.output, arguments)
    wanted = {row["image"] for row in rows}
    done = [row for row in read_rows(arguments.output) if row["image"] in wanted]
    figures = judge(done, {row["image"] for row in draw(labels, FIRST_TRIED)})
    tell(figures)
    if arguments.figures:
        command = " ".join(["python", "tools/figures/edema_risk.py", *sys.argv[1:]])
        write_text(arguments.figures, json.dumps(dict(command=command, figures=figures), indent=1) + "\n")


if __name__ == "__main__":
    main()
