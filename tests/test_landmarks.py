"""Disc and fovea on phantoms, of which they are known: what is given is right, what cannot be seen is not given."""

import csv
import json
import math
from functools import cache
from pathlib import Path

import cv2
import edema_risk as risk_script
import numpy as np
import pytest

from retinal_tl.landmarks import SURE, find_landmarks
from retinal_tl.places import edema_risk, exudate_to_fovea, find_zones, place_cells
from retinal_tl.synthetic import phantom, random_streams
from retinal_tl.synthetic_eyes import place_eye

ROOT = Path(__file__).resolve().parents[1]
SIZE = 400
SEEDS = (5, 12, 15, 23, 31)
FAINT = 11  # its disc is hardly paler than what is around it


@cache
def eye_of(seed, lesions=("exudates", "hemorrhages")):
    """A phantom, and where its landmarks were drawn."""
    eye = phantom(seed, SIZE, lesions)
    return eye, place_eye(random_streams(seed)["eye"], SIZE, eye.style)


def wrong(found, drawn, disc=None, fovea=None):
    """What was given and is more than .35 disc diameters off; an empty list if nothing is."""
    known = dict(disc=disc or drawn.disc, fovea=fovea or drawn.fovea)
    pairs = {name: (getattr(found, name), place) for name, place in known.items()}
    return [name for name, (a, b) in pairs.items() if a is not None and math.dist(a, b) > 0.35 * 2 * drawn.disc_radius]


def turned(point, degrees):
    """Where a point of a phantom comes to lie when the picture is turned around its middle."""
    return tuple(cv2.getRotationMatrix2D((SIZE / 2, SIZE / 2), degrees, 1) @ [*point, 1])


@pytest.mark.parametrize("seed", SEEDS)
def test_disc_and_fovea_are_where_they_were_drawn(seed):
    eye, drawn = eye_of(seed)
    found = find_landmarks(eye.photo)
    assert found.disc and found.fovea and not wrong(found, drawn)
    assert found.laterality == ("left" if drawn.side > 0 else "right")
    assert found.disc_diameter == pytest.approx(2 * drawn.disc_radius, rel=0.2)
    assert SURE <= found.fovea_sure <= found.disc_sure <= 1


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_the_mirror_image_is_the_other_eye(seed):
    eye, drawn = eye_of(seed)
    found = find_landmarks(np.ascontiguousarray(eye.photo[:, ::-1]))
    mirror = lambda point: (SIZE - 1 - point[0], point[1])
    assert found.fovea and not wrong(found, drawn, mirror(drawn.disc), mirror(drawn.fovea))
    assert found.laterality == ("right" if drawn.side > 0 else "left")


@pytest.mark.parametrize("degrees", [-15, 15])
@pytest.mark.parametrize("seed", SEEDS[:3])
def test_a_picture_that_is_turned(seed, degrees):
    eye, drawn = eye_of(seed)
    turn = cv2.getRotationMatrix2D((SIZE / 2, SIZE / 2), degrees, 1)
    found = find_landmarks(cv2.warpAffine(eye.photo, turn, (SIZE, SIZE)))
    assert found.disc and not wrong(found, drawn, turned(drawn.disc, degrees), turned(drawn.fovea, degrees))


@pytest.mark.parametrize("seed", SEEDS[:4])
def test_a_dim_macula_is_found_where_it_is_or_not_at_all(seed):
    eye, drawn = eye_of(seed)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    away = np.hypot(columns - drawn.fovea[0], rows - drawn.fovea[1]) / drawn.disc_radius
    around = np.median(eye.photo[(away > 1.8) & (away < 2.6)], 0)
    share = np.clip(1.6 - 0.8 * away, 0, 0.9)[..., None]  # the macula fades into what is around it
    found = find_landmarks((eye.photo * (1 - share) + around * share).astype(np.uint8))
    assert found.disc and not wrong(found, drawn)
    assert found.fovea_sure < find_landmarks(eye.photo).fovea_sure


@pytest.mark.parametrize("seed", SEEDS[:4])
def test_a_disc_beyond_the_rim_is_not_given(seed):
    """The field ends between disc and fovea."""
    eye, drawn = eye_of(seed)
    photo, middle = eye.photo.copy(), round((drawn.disc[0] + drawn.fovea[0]) / 2)
    photo[:, slice(0, middle) if drawn.side > 0 else slice(middle, None)] = 0
    found = find_landmarks(photo)
    assert (found.disc, found.disc_diameter, found.fovea, found.laterality) == (None, None, None, "")
    cells = place_cells(eye.masks, found)
    assert cells["disc_x"] == cells["fovea_x"] == cells["edema_risk"] == cells["exudate_to_fovea"] == ""


@pytest.mark.parametrize("seed", SEEDS[:4])
def test_a_fovea_beyond_the_rim_is_not_given(seed):
    eye, drawn = eye_of(seed)
    photo, middle = eye.photo.copy(), round(drawn.disc[0] + drawn.side * 3 * drawn.disc_radius)
    photo[:, slice(middle, None) if drawn.side > 0 else slice(0, middle)] = 0
    found = find_landmarks(photo)
    assert found.fovea is None and not wrong(found, drawn)


def test_a_faint_disc_is_not_given():
    eye, _ = eye_of(FAINT)
    found = find_landmarks(eye.photo)
    assert found.disc is found.fovea is None and 0.05 < found.disc_sure < SURE


@pytest.mark.parametrize("fill", ["grey", "noise"])
def test_a_picture_of_no_eye_has_no_fovea(fill):
    rng = np.random.default_rng(0)
    pictures = dict(
        grey=np.full((300, 400, 3), 120, np.uint8),
        noise=rng.integers(0, 256, (300, 400, 3), dtype=np.uint8),
    )
    if fill == "grey":
        pictures[fill][:20] = 0  # otherwise there is no field of view
    found = find_landmarks(pictures[fill])
    assert found.fovea is None and found.laterality == ""


def test_what_is_found_does_not_depend_on_the_size_of_the_photograph():
    eye, drawn = eye_of(5)
    small, large = find_landmarks(eye.photo), find_landmarks(cv2.resize(eye.photo, None, fx=2, fy=2))
    for name in ("disc", "fovea"):
        assert math.dist(np.array(getattr(large, name)) / 2, getattr(small, name)) < 0.1 * drawn.disc_radius


def test_risk_and_rings_on_what_was_found():
    """From the photograph alone to the risk: as it is with the landmarks that were drawn."""
    eye, drawn = eye_of(5)
    found = find_landmarks(eye.photo)
    rows, columns = np.nonzero(eye.masks["exudates"])
    nearest = np.hypot(columns - drawn.fovea[0], rows - drawn.fovea[1]).min() / (2 * drawn.disc_radius)
    assert exudate_to_fovea(eye.masks["exudates"], found) == pytest.approx(nearest, abs=0.1)
    assert edema_risk(eye.masks["exudates"], found) == 2 and nearest < 1
    assert find_zones([drawn.disc[0]], [drawn.disc[1]], found) in ([5 + 1], [9])  # outer nasal, or beyond


def test_the_table_made_by_hand_is_whole():
    with open(ROOT / "results" / "landmarks_by_hand.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["photograph"] for row in rows}) == 60
    assert [sum(row["part"] == part for row in rows) for part in ("tune", "judge")] == [30, 30]
    assert all(0 < float(row[name]) < 4288 for row in rows for name in ("disc_x", "disc_y", "fovea_x", "fovea_y"))


def test_kappa_is_that_of_the_textbook():
    """Against a table worked by hand: 10 photographs, one two grades off and one by one grade."""
    first, second = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2]), np.array([0, 0, 0, 2, 1, 2, 2, 2, 2, 2])
    observed, expected = 4 + 1, (4 * (1 + 6 * 4) + 2 * (3 + 6) + 4 * (3 * 4 + 1)) / 10
    assert risk_script.quadratic_kappa(first, second) == pytest.approx(1 - observed / expected)
    assert risk_script.quadratic_kappa(first, first) == 1
    low, high = risk_script.kappa_interval(first, second, n=200)
    assert low < risk_script.quadratic_kappa(first, second) <= high <= 1


def test_a_sample_has_the_shares_of_all():
    rows = [dict(image=str(i), macular_edema_risk=str(risk)) for i, risk in enumerate([0] * 50 + [1] * 10 + [2] * 40)]
    drawn = risk_script.draw(rows, 20)
    assert [sum(row["macular_edema_risk"] == risk for row in drawn) for risk in "012"] == [10, 2, 8]
    assert drawn == risk_script.draw(rows, 20) != risk_script.draw(rows, 20, seed=1)


def test_boxes_become_ellipses():
    box = dict(center_x="0.5", center_y="0.5", width="0.5", height="0.2")
    mask = risk_script.mask_of_boxes([box], (100, 200))
    assert (
        mask[50, 100] and mask[50, 148] and not mask[41, 52] and mask.sum() == pytest.approx(np.pi * 50 * 10, rel=0.1)
    )


def test_the_halves_keep_an_eye_together():
    eyes = {str(i): str(i - i % 3) for i in range(60)}  # three photographs of each eye
    halves = risk_script.halves(eyes)
    assert halves == risk_script.halves(eyes) and [*halves.values()].count("choose") == 30
    assert all(halves[name] == halves[eye] for name, eye in eyes.items())


def test_the_agreement_counts_what_is_given_and_nothing_else():
    rows = [dict(graders=g, edema_risk=ours) for g, ours in ("00", "01", "11", "22", "20", ("2", ""))]
    found = risk_script.agreement(rows)
    assert [found["photographs"], found["given"], found["table"]] == [6, 5, [[1, 1, 0], [0, 1, 0], [1, 0, 1]]]
    assert found["kappa"] == round(risk_script.quadratic_kappa(np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 2, 0])), 3)


def test_the_figures_on_the_risk_are_those_of_its_table():
    with open(ROOT / "results" / "edema_risk.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    figures = json.loads((ROOT / "results" / "edema_risk.json").read_text())["figures"]
    assert len({row["image"] for row in rows}) == len(rows) == 389
    judging = [row for row in rows if row["half"] == "judge"]
    for name, part in (("all", rows), ("the half to judge on", judging)):
        assert figures[name] == risk_script.agreement(part)


def test_the_places_on_photographs_are_those_that_the_page_reports():
    with open(ROOT / "results" / "landmarks.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with open(ROOT / "results" / "landmarks_by_hand.csv", newline="") as file:
        judging = {row["photograph"] for row in csv.DictReader(file) if row["part"] == "judge"}
    assert len(rows) == 443 and sum(row["fovea_x"] != "" for row in rows) >= 0.9 * 443
    discs = [float(row["disc_error"]) for row in rows if row["disc_error"]]
    foveas = [float(row["fovea_error"]) for row in rows if row["photograph"] in judging and row["fovea_error"]]
    assert (len(discs), len(foveas)) == (436, 28) and max(discs) < 0.5 and max(foveas) < 0.25
