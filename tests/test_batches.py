"""What a step is fed depends on seed, epoch and step alone, shows what it says it shows, and needs no Keras."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from retinal_tl import batches
from retinal_tl.batches import (
    any_lesion_sources,
    balance,
    draw_patches,
    draw_photos,
    load_sources,
    patch_batch,
    photo_batch,
    prepare_photos,
    pseudo_label_sources,
    read_lesion,
    square_batch,
)
from retinal_tl.core import LESIONS, RetinalError
from retinal_tl.datasets import Example
from retinal_tl.images import write_png
from retinal_tl.patches import AUGMENTATIONS, LEAST_PROBABILITY, patch_source
from retinal_tl.preprocess import Preprocessing
from retinal_tl.settings import Stage1, Stage2, settings_for

SIDE = 200
PREPROCESSING = Preprocessing(diameter=160, clahe="none")


def eye(folder: Path, name: str, gray: int, masks: dict[str, np.ndarray | None]) -> Example:
    """A round field of one gray, with masks: what is drawn from it can be told by its color."""
    rows, columns = np.indices((SIDE, SIDE)) - SIDE / 2 + 0.5
    photo = np.where(rows**2 + columns**2 < (SIDE / 2 - 4) ** 2, gray, 0).astype(np.uint8)
    write_png(folder / f"{name}.png", np.dstack([photo] * 3))
    paths = {}
    for lesion, mask in masks.items():
        paths[lesion] = None if mask is None else folder / f"{name}_{lesion}.png"
        if mask is not None:
            write_png(paths[lesion], mask.astype(np.uint8) * 255)
    return Example(folder / f"{name}.png", any(mask is not None for mask in masks.values()), paths, name, "folder")


def disk(row: int, column: int, radius: int) -> np.ndarray:
    rows, columns = np.indices((SIDE, SIDE))
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


@pytest.fixture(scope="module")
def eyes(tmp_path_factory) -> list[Example]:
    """A bright eye with two kinds of lesion, a darker one annotated as having none, a dark one that is healthy."""
    folder = tmp_path_factory.mktemp("eyes")
    masks = dict(exudates=disk(100, 60, 12), hemorrhages=disk(100, 140, 12))
    return [
        eye(folder, "ill", 200, masks),
        eye(folder, "none", 120, dict(exudates=None, hemorrhages=None)),
        eye(folder, "healthy", 60, {}),
    ]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_masks_of_one_photo_beside_each_other_or_in_one(eyes, cache):
    sources = load_sources(eyes, ["hemorrhages", "exudates"], PREPROCESSING, cache)
    assert [[len(kind) for kind in source.lesions] for source in sources] == [[1, 1], [0, 0], [0, 0]]
    center = sources[0].lesions[0][0].mean(0)  # of the hemorrhage, the kind that was asked for first: on the right
    assert center[0] > 100 and sources[0].coverage.shape == (160, 160, 2)
    together = any_lesion_sources(eyes, PREPROCESSING, cache)
    assert [len(source.lesions[0]) for source in together] == [2, 0, 0]
    np.testing.assert_array_equal(together[0].coverage, sources[0].coverage.max(2))


def test_photos_are_those_of_the_sources(eyes, cache):
    prepared = prepare_photos(eyes, PREPROCESSING, cache)
    for photo, source in zip(prepared, load_sources(eyes, ["exudates"], PREPROCESSING, cache)):
        np.testing.assert_array_equal(photo.image, source.image)
        np.testing.assert_array_equal(photo.inside, source.inside)


def test_a_photo_that_cannot_be_read_is_an_error_in_words(eyes, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"<html>")
    broken = Example(tmp_path / "broken.png", True, {}, "broken", "folder")
    for load in (
        lambda: prepare_photos([*eyes, broken], PREPROCESSING, tmp_path),
        lambda: load_sources([*eyes, broken], ["exudates"], PREPROCESSING, tmp_path),
    ):
        with pytest.raises(RetinalError, match=r"broken\.png"):
            load()


def test_a_lesion_that_was_not_annotated_is_nowhere(eyes):
    assert read_lesion(eyes[0], "exudates", (SIDE, SIDE)).sum() == disk(100, 60, 12).sum()
    for example in eyes[1:]:
        assert not read_lesion(example, "exudates", (SIDE, SIDE)).any()
    assert not any(read_lesion(eyes[0], lesion, (SIDE, SIDE)).any() for lesion in LESIONS[2:])


@pytest.fixture(scope="module")
def draws(eyes, cache):
    """The three kinds of batch as functions of settings' changes, epoch and step."""
    prepared, labels = prepare_photos(eyes, PREPROCESSING, cache), np.array([example.label for example in eyes])
    together = any_lesion_sources(eyes, PREPROCESSING, cache)
    apart = load_sources(eyes, ["exudates", "hemorrhages"], PREPROCESSING, cache)
    stage1, stage2 = dict(image_size=64, batch_size=6), dict(patch_size=64, batch_size=6)
    return dict(
        photo=lambda epoch, step, **more: photo_batch(
            prepared, labels, settings_for(Stage1, stage1 | more), epoch, step
        ),
        square=lambda epoch, step, **more: square_batch(together, settings_for(Stage1, stage1 | more), epoch, step),
        patch=lambda epoch, step, **more: patch_batch(apart, settings_for(Stage2, stage2 | more), epoch, step),
    )


@pytest.mark.parametrize("kind", ["photo", "square", "patch"])
def test_a_batch_depends_on_seed_epoch_and_step_alone(draws, kind):
    draw = draws[kind]
    first = draw(2, 7)
    draw(0, 0)  # what was drawn before does not matter
    for one, other in zip(first, draw(2, 7)):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == np.float32
    for other in (draw(7, 2), draw(2, 8), draw(2, 7, seed=1)):
        assert (first[0] != other[0]).any()


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_every_augmentation_has_its_amounts(draws, augmentation):
    photos, truth = draws["photo"](0, 0, augmentation=augmentation)
    assert photos.shape == (6, 64, 64, 3) and truth.tolist() == [[1], [0]] * 3
    inside = photos[:, 32, 32].mean(1)
    if augmentation in ("rich", "camera"):  # tinted
        assert len(set(inside)) > 3
    else:
        assert set(inside) <= {200, 120, 60} and (inside[::2] == 200).all() and (inside[1::2] < 200).all()


def test_squares_have_labels_of_their_own(draws):
    squares, truth = (np.concatenate(parts) for parts in zip(*[draws["square"](0, step) for step in range(10)]))
    assert squares.shape == (60, 64, 64, 3) and truth.shape == (60, 1)
    assert 0.3 < truth.mean() < 0.9 and set(truth.ravel()) == {0, 1}


def test_patches_lie_on_lesions_as_often_as_asked(draws):
    def shown(**more):
        coverage = np.concatenate([draws["patch"](0, step, **more)[1] for step in range(10)])
        assert coverage.shape == (60, 64, 64, 2) and coverage.min() == 0 and coverage.max() <= 1
        return (coverage > 0.5).any((1, 2, 3)).mean()

    never, half, always = (shown(lesion_share=share) for share in (0.0, 0.5, 1.0))
    assert never < half < always and always > 0.9


def test_a_batch_on_hard_negatives(eyes, cache):
    """Patches are placed where a network was wrong, by the share that was asked for."""
    from dataclasses import replace

    [source] = load_sources(eyes[1:2], ["exudates"], PREPROCESSING, cache)
    place = np.array([[40, 80]], np.int32)
    image = source.image.copy()
    image[75:86, 35:46] = 255
    source = replace(source, image=image, hard_negatives=(place,))
    asked = dict(patch_size=64, batch_size=20, augmentation="none", start_run="runs/a")
    seen = [
        (patch_batch([source], settings_for(Stage2, asked | dict(hard_negative_share=share)), 0, 0)[0] > 250)
        .any((1, 2, 3))
        .mean()
        for share in (0.0, 0.5)
    ]
    assert seen[1] > seen[0] and seen[1] > 0.5


def test_pictures_of_batches():
    photos = np.full((9, 32, 32, 3), 100, np.float32)
    sheet = draw_photos(photos, np.array([[1.0], [0.0]] * 4 + [[1.0]]))
    assert sheet.shape == (440, 880, 3) and sheet.dtype == np.uint8
    assert sheet[3, 110].tolist() == [0, 255, 0] and sheet[3, 330].tolist() == [90, 90, 90]
    assert draw_photos(photos[:1], np.ones((1, 1))).shape == (220, 220, 3)
    coverage = np.zeros((14, 32, 32, 2), np.float32)
    coverage[0, 8:24, 8:24, 1] = 1
    sheet = draw_patches(np.full((14, 32, 32, 3), 100, np.float32), coverage)
    assert sheet.shape == (320, 960, 3)
    green = (sheet == (0, 255, 0)).all(2)
    assert green[:160, :160].any() and not green[:, 160:].any() and not green[80, 80]


def test_pseudo_labels_are_the_maps_of_a_network(eyes, cache):
    def maps(photo):
        found = np.zeros((*photo.inside.shape, 2), np.float32)
        found[20:30, 20:30, 0], found[50:60, 50:60, 1] = LEAST_PROBABILITY - 0.01, 0.6
        return found

    for workers in (1, 3):
        sources = pseudo_label_sources(eyes, maps, PREPROCESSING, cache, workers)
        assert [source.image[80, 80, 0] for source in sources] == [200, 120, 60]  # in order
        for source in sources:
            assert [len(kind) for kind in source.lesions] == [0, 1]
            assert source.coverage.max() == 153 and source.coverage[..., 0].max() == 0


def test_what_was_outlined_by_hand_is_about_half():
    empty = np.zeros((8, 8), np.uint8)
    mask = empty.copy()
    mask[2:4, 2:4] = 255
    photo, inside = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), bool)
    hand, healthy = patch_source(photo, mask, inside), patch_source(photo, empty, inside)
    for count in range(30):
        labelled = [patch_source(photo, mask, inside) for _ in range(count)]
        drawn = balance([hand, healthy, hand], labelled)
        assert sum(source is healthy for source in drawn) == 1
        assert sum(source is hand for source in drawn) == 2 * max(1, round(count / 2))
        assert drawn[len(drawn) - count :] == labelled
    assert balance([healthy], labelled) == [healthy, *labelled]


def test_no_keras_is_loaded():
    code = "import sys, retinal_tl.batches; sys.exit(bool({'keras', 'tensorflow', 'jax'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert batches.LEAST_PROBABILITY > 0
