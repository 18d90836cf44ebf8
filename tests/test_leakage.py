"""The leak guard on real eyes, and on phantoms photographed twice."""
import csv
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from retinal_tl.leakage import SAME_EYE, find_same_eyes, read_signatures, same_eye_scores, signature
from retinal_tl.synthetic import phantom

DATA = Path(os.environ.get("RETINAL_TL_DATA", Path(__file__).resolve().parents[2]/"shared"/"data"))
SCREENING = DATA/"DR-screening"


def changed(photo: np.ndarray, angle: float, scale: float, shift: tuple[int, int], gamma: float, tilt: float, quality: int) -> np.ndarray:
    """The same eye once more: turned, scaled, shifted inside the camera's field, relit and saved anew."""
    height, width = photo.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width-1)/2, (height-1)/2), angle, scale)
    matrix[:, 2] += shift
    moved = cv2.warpAffine(photo, matrix, (width, height)).astype(float)
    moved = 255*(moved/255)**gamma*(1+tilt*(np.arange(width)/width-.5))[None, :, None]
    moved[photo.max(-1) < 12] = 0
    return cv2.imdecode(cv2.imencode(".jpg", np.clip(moved, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


@pytest.mark.parametrize("change", [(0, 1, (0, 0), 1, 0, 30), (0, 1, (40, -20), 1, 0, 90), (5, 1, (0, 0), 1, 0, 90), (-7.5, 1, (0, 0), 1, 0, 90),
                                    (0, 1.04, (0, 0), 1, 0, 90), (0, 1, (0, 0), 1.6, .8, 90), (-4, .98, (25, 15), .7, -.5, 60)])
def test_phantoms_photographed_twice(change):
    eyes = [phantom(seed, 512).photo for seed in range(6)]
    scores = same_eye_scores(np.stack([signature(eye) for eye in eyes]), np.stack([signature(changed(eye, *change)) for eye in eyes]))
    same = np.diag(scores).copy()
    np.fill_diagonal(scores, -1)
    assert same.min() > SAME_EYE, same
    assert scores.max() < SAME_EYE, scores


def test_phantoms_are_different_eyes():
    signatures = np.stack([signature(phantom(seed, 256).photo) for seed in range(40)])
    assert find_same_eyes([str(i) for i in range(40)], signatures) == []


@pytest.mark.skipif(not SCREENING.exists(), reason="needs the photographs of shared/data")
def test_known_pairs_of_real_eyes():
    """Every known pair is found; what else is found is an eye of which three photographs are known."""
    with open(SCREENING/"labels.csv", newline="") as file: rows = list(csv.DictReader(file))
    known = {(row["image"][-13:-4], row["idrid_segmentation_image"]) for row in rows if row["idrid_segmentation_image"]}
    every_fifth = [row["image"] for i, row in enumerate(rows) if row["idrid_segmentation_image"] or i % 5 == 0]
    first, first_signatures, _ = read_signatures([SCREENING/image for image in every_fifth])
    second, second_signatures, _ = read_signatures(sorted((DATA/"IDRiD").rglob("IDRiD_*.jpg")))
    found = {(Path(pair.first).stem, Path(pair.second).stem) for pair in find_same_eyes(first, first_signatures, second, second_signatures)}
    assert len(known) == 46 and known <= found
    assert {pair for pair in found-known} <= {("IDRiD_133", "IDRiD_40")}
