"""The synthetic set as the other parts use it: its bits, its masks, its folder, and what happens beside it."""

import csv
import json
import threading

import numpy as np
import pytest

from retinal_tl.core import LESIONS, RetinalError
from retinal_tl.datasets import read_folder
from retinal_tl.images import read_photo
from retinal_tl.masks import read_mask
from retinal_tl.preprocess import find_field_of_view
from retinal_tl.synthetic import LOOK_ALIKES, PAINTS, SPOTS, draw_retina, phantom, random_streams, write_synthetic
from retinal_tl.synthetic_eyes import STYLES, field_mask, grow_vessels, place_eye
from retinal_tl.synthetic_lesions import draw_spots

SIZE = 256


def same(first, second):
    masks = (first.masks | first.look_alikes, second.masks | second.look_alikes)
    return (first.photo == second.photo).all() and all((masks[0][kind] == masks[1][kind]).all() for kind in masks[0])


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_seed_gives_the_same_bits_in_any_thread():
    expected, found = phantom(3, SIZE), []
    threads = [threading.Thread(target=lambda: found.append(phantom(3, SIZE))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and all(same(expected, one) for one in found)
    assert not same(expected, phantom(4, SIZE))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("lesion", LESIONS)
def test_masks_are_exact(lesion, style):
    seed = 17
    eye = place_eye(random_streams(seed)["eye"], SIZE, style)
    ill, masks = draw_retina(random_streams(seed), eye, (lesion,))
    healthy, _ = draw_retina(random_streams(seed), eye, ())
    change = (ill - healthy)[..., 1]
    assert masks[lesion].any() and not (masks[lesion] & ~field_mask(eye)).any()
    assert (change[masks[lesion]] * (-1 if PAINTS[lesion].dark else 1) > 0).all()
    assert (change * (-1 if PAINTS[lesion].dark else 1) >= 0).all()


@pytest.mark.parametrize("kind", SPOTS)
def test_every_kind_of_spot_is_drawn_where_it_may_be(kind):
    """Strengths from 0 to 1, outlines in the field, the same for the same seed."""
    eye = place_eye(random_streams(5)["eye"], SIZE, "red")
    vessels, drawn = grow_vessels(random_streams(5)["vessels"], eye), 0
    for seed in range(8):
        spots, again = (SPOTS[kind](np.random.default_rng(seed), eye, vessels) for _ in range(2))
        assert len(spots) == len(again) and all((one[0] == two[0]).all() for one, two in zip(spots, again))
        for points, strength in spots:
            drawn += 1
            assert 0 < strength <= 1 and points.shape == (28, 2)
            assert np.hypot(*(points.mean(0) - eye.center)) < 1.1 * eye.radius
        opacity, ink = draw_spots(SIZE, spots)
        assert ink.min() >= 0 and (ink <= opacity + 1e-6).all() and opacity.max() <= 1
    assert drawn > 4


def test_vessels_reach_for_the_temple_in_left_and_right_eyes():
    """The arcades pass the fovea on its side of the disc; those to the nose stay shorter."""
    sides = set()
    for seed in range(12):
        eye = place_eye(random_streams(seed)["eye"], SIZE, "red")
        trunks = [vessel for vessel in grow_vessels(random_streams(seed)["vessels"], eye) if vessel.order == 0]
        to_temple = np.concatenate([(trunk.points[:, 0] - eye.disc[0]) * eye.side for trunk in trunks])
        assert to_temple.max() > (eye.fovea[0] - eye.disc[0]) * eye.side > 0 > to_temple.min()
        sides.add(eye.side)
    assert sides == {-1, 1}


@pytest.mark.parametrize("seed", range(6))
def test_no_lesion_is_the_empty_mask_and_healthy_eyes_have_look_alikes(seed):
    eye = phantom(seed, SIZE, lesions=())
    assert not eye.label and set(eye.masks) == set(LESIONS) and not any(mask.any() for mask in eye.masks.values())
    assert set(eye.look_alikes) == set(LOOK_ALIKES) and sum(mask.any() for mask in eye.look_alikes.values()) >= 2


@pytest.mark.parametrize("size", (128, 256, 512, 1024))
def test_every_length_scales_with_the_size(size):
    eye = phantom(9, size, lesions=LESIONS, style="red")
    assert eye.photo.shape == (size, size, 3) and eye.photo.dtype == np.uint8
    assert all(mask.shape == (size, size) and mask.dtype == bool and mask.any() for mask in eye.masks.values())
    assert 0.60 < (eye.photo.max(2) > 25).mean() < 0.78


@pytest.mark.parametrize("style", STYLES)
def test_the_field_of_view_is_found(style):
    for seed in range(3):
        eye = place_eye(random_streams(seed)["eye"], 512, style)
        found = find_field_of_view(phantom(seed, 512, style=style).photo)
        assert abs(found.radius - eye.radius) < 0.03 * eye.radius
        assert np.hypot(found.center_x - eye.center[0], found.center_y - eye.center[1]) < 0.03 * eye.radius


def test_folder_is_read_back(tmp_path):
    folder = write_synthetic(tmp_path / "eyes", count=8, size=SIZE, seed=2)
    data = read_folder(folder)
    assert data.problems == () and len(data.examples) == 8
    for example in data.examples:
        drawn = phantom(2_000_000 + int(example.photo.stem.split("_")[1]), SIZE)
        assert example.label == drawn.label
        assert np.abs(read_photo(example.photo).astype(int) - drawn.photo).mean() < 2
        for lesion in LESIONS:
            path = example.masks[lesion]
            assert (read_mask(path) == drawn.masks[lesion]).all() if path else not drawn.masks[lesion].any()


def test_workers_do_not_change_a_bit(tmp_path):
    first, second = (write_synthetic(tmp_path / str(workers), 5, 128, workers=workers) for workers in (1, 3))
    assert files(first) == files(second)
    with open(first / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [f"images/phantom_{i:04}.jpg" for i in range(5)]
    assert json.loads((first / "settings.json").read_text())["count"] == 5


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(RetinalError, match="something other"):
        write_synthetic(tmp_path / "mine", 2, 128)
    assert files(tmp_path) == {"mine/notes.txt": b"keep"}
    (tmp_path / "empty").mkdir()
    assert write_synthetic(tmp_path / "empty", 2, 128) == tmp_path / "empty"


def test_nothing_is_left_of_a_set_that_was_not_finished(tmp_path, monkeypatch):
    import retinal_tl.synthetic as synthetic

    def fails(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "write_png", fails)
    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path / "eyes", 6, 128, workers=1)
    assert list(tmp_path.iterdir()) == []
