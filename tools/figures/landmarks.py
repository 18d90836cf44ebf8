"""How well are optic disc and fovea found? And where the numbers in `retinal_tl.landmarks` come from.

    python tools/figures/landmarks.py DATA --hand results/landmarks_by_hand.csv --output results/landmarks.csv
    python tools/figures/landmarks.py DATA --hand results/landmarks_by_hand.csv --learn

DATA holds `IDRiD` and `DR-screening`. Discs are known from the masks of the one and the experts' boxes (CODRAS) of
the other, foveas from a table that was made by hand. The first line writes a row for each photograph as it is done, and
after a stop what is missing; then it prints errors in disc diameters. The second learns the weights of the measures
from all photographs but those of the part `judge` and others of their eyes, and from 150 phantoms; it takes minutes
and prints them.
"""

import argparse
import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.optimize import minimize

from retinal_tl.images import photo_size, read_small_photo
from retinal_tl.landmarks import (
    DISC_PIXELS,
    DISC_SIZES,
    Landmarks,
    disc_measures,
    find_landmarks,
    find_seen,
    fovea_measures,
    view_at,
)
from retinal_tl.masks import read_mask
from retinal_tl.preprocess import find_field_of_view
from retinal_tl.synthetic import phantom, random_streams
from retinal_tl.synthetic_eyes import place_eye

HALVES = "A. Segmentation/1. Original Images/a. Training Set", "A. Segmentation/2. All Segmentation Groundtruths"
COLUMNS = (
    *("photograph", "disc_x", "disc_y", "disc_diameter", "fovea_x", "fovea_y", "laterality", "disc_sure", "fovea_sure"),
    *("disc_error", "diameter_ratio", "fovea_error"),
)


@dataclass(frozen=True)
class Truth:
    """A photograph, and what is known of it, in its pixels."""

    name: str
    path: Path
    disc: tuple[float, float, float] | None  # x, y, diameter
    fovea: tuple[float, float] | None
    part: str  # `tune` or `judge`, if it is in the table made by hand
    eye: str  # the same for two photographs of one eye


def photographs(data: Path, hand: Path) -> Iterator[Truth]:
    """All photographs of IDRiD's two parts."""
    by_hand = {row["photograph"]: row for row in read_rows(hand)}
    screening = data / "DR-screening"
    boxes = {row["image"]: row for row in read_rows(screening / "boxes.csv") if row["object"] == "optic_disc"}
    paths = sorted((data / "IDRiD" / HALVES[0]).glob("*.jpg"))
    eyes = {Path(row["image"]).stem: row["idrid_segmentation_image"] for row in read_rows(screening / "labels.csv")}
    for path in [*paths, *sorted((screening / "images").glob("*.jpg"))]:
        name = path.stem
        if path in paths:
            disc = disc_of_mask(data / "IDRiD" / HALVES[1] / "a. Training Set/5. Optic Disc" / f"{name}_OD.tif", path)
        else:
            disc = disc_of_box(boxes[path.name], path) if path.name in boxes else None
        row = by_hand.get(name)
        fovea = (float(row["fovea_x"]), float(row["fovea_y"])) if row and row["fovea_seen"] == "1" else None
        yield Truth(name, path, disc, fovea, row["part"] if row else "", eyes.get(name) or name)


def disc_of_mask(mask: Path, photo: Path) -> tuple[float, float, float]:
    """Center and diameter, the mean of width and height, of the largest part of a mask."""
    marked = read_mask(mask, photo_size(photo)).astype(np.uint8)
    _, _, about, _ = cv2.connectedComponentsWithStats(marked)
    left, top, width, height, _ = about[1 + about[1:, cv2.CC_STAT_AREA].argmax()].tolist()
    return left + (width - 1) / 2, top + (height - 1) / 2, (width + height) / 2


def disc_of_box(box: Mapping[str, str], photo: Path) -> tuple[float, float, float]:
    """The same of a box."""
    height, width = photo_size(photo)
    x, y, across, down = (float(box[name]) for name in ("center_x", "center_y", "width", "height"))
    return x * width, y * height, (across * width + down * height) / 2


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def row_of(truth: Truth, found: Landmarks, scale: float) -> dict[str, object]:
    """What was found, in pixels of the whole photograph, and how far off it is, in disc diameters."""
    place = lambda point: tuple(round((value + 0.5) * scale - 0.5, 1) for value in point) if point else ("", "")
    row: dict[str, object] = dict(photograph=truth.name, laterality=found.laterality)
    row |= dict(zip(("disc_x", "disc_y"), place(found.disc))) | dict(zip(("fovea_x", "fovea_y"), place(found.fovea)))
    row |= dict(disc_sure=round(found.disc_sure, 3), fovea_sure=round(found.fovea_sure, 3))
    diameter = found.disc_diameter * scale if found.disc_diameter else None
    row |= dict(disc_diameter=round(diameter, 1) if diameter else "")
    if truth.disc and diameter:
        *center, size = truth.disc
        row |= dict(disc_error=round(math.dist(place(found.disc), center) / size, 3))
        row |= dict(diameter_ratio=round(diameter / size, 3))
        if truth.fovea and found.fovea:
            row |= dict(fovea_error=round(math.dist(place(found.fovea), truth.fovea) / size, 3))
    return row


def judge(truths: Sequence[Truth], output: Path) -> None:
    """Write a row for each photograph that has none yet, and print the errors."""
    done = {row["photograph"] for row in read_rows(output)} if output.exists() else set()
    with open(output, "a", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        if not file.tell():
            table.writeheader()
        for truth in truths:
            if truth.name not in done:
                photo = read_small_photo(truth.path, 700)
                scale = photo_size(truth.path)[0] / photo.shape[0]
                table.writerow(row_of(truth, find_landmarks(photo), scale))
                file.flush()
    rows, parts = read_rows(output), {truth.name: truth.part for truth in truths}
    print(f"{len(rows)} photographs: disc given for {sum(row['disc_x'] != '' for row in rows)}, ", end="")
    print(f"fovea for {sum(row['fovea_x'] != '' for row in rows)}")
    tell("disc, all", rows, "disc_error")
    for part in ("tune", "judge"):
        for name in ("disc_error", "fovea_error"):
            tell(f"{name}, {part}", [row for row in rows if parts[row["photograph"]] == part], name)


def tell(title: str, rows: Sequence[Mapping[str, str]], column: str) -> None:
    """Print a line on the errors in a column."""
    errors = np.array([float(row[column]) for row in rows if row[column] != ""])
    worst = ", ".join(f"{error:.2f}" for error in np.sort(errors)[:-4:-1])
    wrong = f"over half a disc diameter {int((errors > 0.5).sum())}"
    print(f"{title}: {len(errors)} of {len(rows)}, median {np.median(errors):.3f}, {wrong}, largest {worst}")


def learn(truths: Sequence[Truth]) -> None:
    """Print the weights of the measures."""
    judged = {truth.eye for truth in truths if truth.part == "judge"}
    examples = [example(truth) for truth in truths if truth.disc and truth.eye not in judged]
    examples += [example_of_phantom(seed) for seed in range(500, 650)]
    weights = [1.0 if truth else 0.4 for truth, *_ in examples]
    discs = [disc_choices(*rest[:2]) for _, *rest in examples]
    print("contrast, roundness, convergence, log of size, its square:", fit(discs, weights, [1, 1, 30, 1, 1]))
    with_fovea = [(truth, *rest) for truth, *rest in examples if rest[2]]
    weights = [1.0 if truth else 0.12 for truth, *_ in with_fovea]
    foveas = [fovea_choices(*rest) for _, *rest in with_fovea]
    print("dark, pit, arcade, away, below, their squares:", fit(foveas, weights, [1, 1, 40, 1, 1, 1, 1]))


def example(truth: Truth) -> tuple[Truth, np.ndarray, np.ndarray, np.ndarray | None]:
    """A crop, and its disc (x, y, diameter) and fovea as shares of its side."""
    photo = read_small_photo(truth.path, 700)
    scale = photo_size(truth.path)[0] / photo.shape[0]
    field = find_field_of_view(photo)
    corner, side = np.array(field.square[:2]) * scale, field.square[2] * scale
    disc = (np.array(truth.disc) - [*corner, 0]) / side
    return truth, field.crop(photo, 480), disc, (np.array(truth.fovea) - corner) / side if truth.fovea else None


def example_of_phantom(seed: int) -> tuple[None, np.ndarray, np.ndarray, np.ndarray]:
    """The same of a phantom."""
    drawn = phantom(seed, 480)
    eye, field = place_eye(random_streams(seed)["eye"], 480, drawn.style), find_field_of_view(drawn.photo)
    corner, side = np.array(field.square[:2]), field.square[2]
    disc = np.array([*(np.array(eye.disc) - corner), 2 * eye.disc_radius]) / side
    return None, field.crop(drawn.photo, 480), disc, (np.array(eye.fovea) - corner) / side


def disc_choices(crop: np.ndarray, disc: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Measures (n, 5) of places in all copies, every third in both directions, and which of them are the disc."""
    seen, rows = find_seen(crop), []
    for size in DISC_SIZES:
        view, log = view_at(crop, seen, size), math.log(size / 0.16)
        y, x = (
            places[view.seen[1::3, 1::3] > 0] for places in np.mgrid[: len(view.seen), : len(view.seen)][:, 1::3, 1::3]
        )
        off = np.hypot(*(((np.stack([x, y], 1) + 0.5) / len(view.seen) - disc[:2]) / disc[2]).T)
        right = (off < 0.16) & (abs(math.log(size / disc[2])) < 0.1)
        rows.append(np.stack([*disc_measures(view)[:, y, x], *np.full((2, len(x)), [[log], [log**2]]), right], 1))
    table = np.concatenate(rows)
    return table[:, :-1], table[:, -1] > 0


def fovea_choices(crop: np.ndarray, disc: np.ndarray, fovea: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Measures (n, 7) of places to both sides of the true disc, and which of them are the fovea."""
    size = min(DISC_SIZES, key=lambda size: abs(math.log(size / disc[2])))
    view = view_at(crop, find_seen(crop), size)
    y, x = np.nonzero(view.seen)
    right, down = (((np.stack([x, y], 1) + 0.5) / len(view.seen) - disc[:2]) * len(view.seen) / DISC_PIXELS).T
    usual = (np.abs(right) > 1.2) & (np.abs(right) < 3.8) & (np.abs(down) < 1.5)
    away, below, y, x = np.abs(right[usual]) - 2.45, down[usual] - 0.3, y[usual], x[usual]
    off = np.hypot((x + 0.5) / len(view.seen) - fovea[0], (y + 0.5) / len(view.seen) - fovea[1]) / disc[2]
    return np.stack([*fovea_measures(view)[:, y, x], away, below, away**2, below**2], 1), off < 0.15


def fit(
    choices: Sequence[tuple[np.ndarray, np.ndarray]], weights: Sequence[float], scales: Sequence[float]
) -> list[float]:
    """Weights with which e to the score, over the sum of all places, makes the right places most probable."""
    choices = [(measures * scales, right) for measures, right in choices]
    weights = [weight if right.any() else 0.0 for (_, right), weight in zip(choices, weights)]

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        total, slope = 0.001 * float(w @ w) / len(w), 0.002 * w / len(w)
        for (measures, right), weight in zip(choices, weights):
            if not weight:
                continue  # the place is not among the choices
            score = measures @ w
            every, good = np.exp(score - score.max()), np.exp(score - score[right].max()) * right
            share = weight / sum(weights)
            total += share * (math.log(every.sum()) + score.max() - math.log(good.sum()) - score[right].max())
            slope = slope + share * ((every / every.sum() - good / good.sum()) @ measures)
        return total, slope

    found = minimize(loss, np.zeros(len(scales)), jac=True, method="L-BFGS-B").x
    return [float(f"{value:.4g}") for value in found * scales]


def main() -> None:
    about, _, words = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=words, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with IDRiD and DR-screening")
    parser.add_argument("--hand", type=Path, required=True, help="table of centers that were marked by hand")
    parser.add_argument("--output", type=Path, help="CSV, a row for each photograph; grows")
    parser.add_argument("--learn", action="store_true", help="print weights instead")
    arguments = parser.parse_args()
    truths = list(photographs(arguments.data, arguments.hand))
    if arguments.learn:
        learn(truths)
    elif arguments.output:
        judge(truths, arguments.output)
    else:
        parser.error("give --output or --learn")


if __name__ == "__main__":
    main()
