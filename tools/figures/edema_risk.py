"""Does the risk of macular edema, as exudates and the fovea give it, agree with the graders of IDRiD?

    python tools/figures/edema_risk.py DR-screening --output risk.csv --maps maps [--sample 40] [--flips none]
    python tools/figures/edema_risk.py DR-screening --output boxes.csv --boxes

The first line runs a segmenter (the built-in one unless `--model` names another) over the photographs; its maps of
exudates are kept in the folder `--maps`. The second takes the boxes of experts (CODRAS) instead and so tests the
landmarks alone. A row is written as each photograph is done, and a second start does what is missing. Then quadratic
kappa is printed, with its interval by bootstrap over the photographs for which a risk is given.
"""

import argparse
import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from retinal_tl.cards import SegmenterCard
from retinal_tl.images import read_photo, write_png
from retinal_tl.inference import Run, load_segmenters, segment
from retinal_tl.landmarks import find_landmarks
from retinal_tl.places import PLACE_COLUMNS, place_cells

COLUMNS = ("image", "graders", "threshold", *PLACE_COLUMNS)


def draw(rows: Sequence[Mapping[str, str]], count: int, seed: int = 0) -> list[Mapping[str, str]]:
    """So many photographs at random, of each risk as large a share as in all."""
    rng, drawn = np.random.default_rng(seed), []
    for risk in ("0", "1", "2"):
        of_risk = [row for row in rows if row["macular_edema_risk"] == risk]
        places = rng.permutation(len(of_risk))[: round(count * len(of_risk) / len(rows))]
        drawn += [of_risk[i] for i in sorted(places)]
    return drawn


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
            about = dict(image=row["image"], graders=row["macular_edema_risk"], threshold=threshold)
            table.writerow(about | cells)
            file.flush()


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def tell(rows: Sequence[Mapping[str, str]]) -> None:
    """Print how far the risks agree."""
    given = [row for row in rows if row["edema_risk"] != ""]
    graders, ours = (np.array([int(row[name]) for row in given], int) for name in ("graders", "edema_risk"))
    print(f"given for {len(given)} of {len(rows)} photographs ({100 * len(given) / len(rows):.1f} %)")
    low, high = kappa_interval(graders, ours)
    print(f"quadratic kappa {quadratic_kappa(graders, ours):.3f} [{low:.3f}, {high:.3f}]")
    for grade in range(3):
        counts = np.bincount(ours[graders == grade], minlength=3).tolist()
        print(f"graders {grade}: ours 0, 1, 2: {counts}")


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
    arguments = parser.parse_args()
    rows = read_rows(arguments.data / "labels.csv")
    rows = draw(rows, arguments.sample) if arguments.sample else rows
    measure(arguments.data, rows, arguments.output, arguments)
    wanted = {row["image"] for row in rows}
    tell([row for row in read_rows(arguments.output) if row["image"] in wanted])


if __name__ == "__main__":
    main()
