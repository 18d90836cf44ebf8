"""Patches and tiles against the same work done the plain way, one patch and one tile at a time."""

import inspect
from dataclasses import replace

import numpy as np
import pytest

from retinal_tl.core import LESIONS, RetinalError
from retinal_tl.patches import (
    AUGMENTATIONS,
    LEAST_PROBABILITY,
    Augmentation,
    blending_window,
    cut,
    patch_source,
    predict_tiles,
    random_geometry,
    random_tint,
    sample_patches,
    tile_starts,
    with_hard_negatives,
)
from retinal_tl.preprocess import Preprocessing, prepare, prepare_mask
from retinal_tl.synthetic import phantom

SETTINGS = Preprocessing(diameter=192)


def is_bright(tiles):
    """A network that takes all that is bright for a lesion: (n, tile, tile, 3) → (n, tile, tile, 4)."""
    return np.repeat((tiles[..., 1:2] > 120).astype(np.float32) * 0.6, 4, -1)


@pytest.fixture(scope="module")
def sources():
    """Four eyes with masks of all four kinds of lesion, healthy ones among them."""
    made = []
    for seed in range(4):
        eye = phantom(seed, 256)
        prepared = prepare(eye.photo, SETTINGS)
        kinds = np.stack([prepare_mask(eye.masks[lesion], prepared.field, SETTINGS) for lesion in LESIONS], -1)
        made.append(patch_source(prepared.image, kinds, prepared.inside))
    return made


@pytest.fixture(scope="module")
def corrected(sources):
    """The same with their hard negatives."""
    return [with_hard_negatives(source, is_bright, 96) for source in sources]


def one_by_one(sources, size, count, rng, lesion_share, augmentation, hard_negative_share):
    """`sample_patches` as it was first written, in one piece: chance is asked in the same order."""
    lesions = [[(one, one.lesions[kind]) for one in sources if one.lesions[kind]] for kind in range(4)]
    wrong = [
        [(one, one.hard_negatives[kind]) for one in sources if one.hard_negatives and len(one.hard_negatives[kind])]
        for kind in range(4)
    ]
    lesions, wrong = ([kind for kind in kinds if kind] for kinds in (lesions, wrong if hard_negative_share else []))
    for _ in range(count):
        share = rng.random() if lesions or wrong else 1
        if lesions and share < lesion_share:
            kind = lesions[rng.integers(len(lesions))]
            source, regions = kind[rng.integers(len(kind))]
            region = regions[rng.integers(len(regions))]
            point = region[rng.integers(len(region))] + rng.uniform(-size / 3, size / 3, 2)
        elif wrong and share >= 1 - hard_negative_share:
            kind = wrong[rng.integers(len(wrong))]
            numbers = np.array([len(pixels) for _, pixels in kind])
            source, pixels = kind[rng.choice(len(kind), p=numbers / numbers.sum())]
            point = pixels[rng.integers(len(pixels))] + rng.uniform(-size / 3, size / 3, 2)
        else:
            source = sources[rng.integers(len(sources))]
            for _ in range(100):
                point = rng.integers(source.inside.shape[0], size=2)
                if source.inside[point[1], point[0]]:
                    break
        geometry = random_geometry(tuple(point), size, augmentation, rng)
        patch = random_tint(cut(source.image, geometry, size), augmentation, rng)
        yield patch, cut(source.coverage, geometry, size)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("shares", [(0.5, 0), (0, 0), (1, 0), (0.4, 0.3), (0, 1)], ids=str)
def test_sampling_is_the_plain_loop_to_the_bit(sources, corrected, augmentation, shares):
    for some in (sources, corrected, [sources[0], *corrected[1:]]):
        lesion_share, hard_negative_share = shares
        chance, again = np.random.default_rng(5), np.random.default_rng(5)
        amounts = AUGMENTATIONS[augmentation]
        patches, masks = sample_patches(some, 48, 10, chance, lesion_share, amounts, hard_negative_share)
        plain = list(one_by_one(some, 48, 10, again, lesion_share, amounts, hard_negative_share))
        assert (patches == np.stack([patch for patch, _ in plain])).all()
        assert (masks == np.stack([mask for _, mask in plain])).all()
        assert chance.random() == again.random()  # neither has drawn more


def test_a_single_kind_keeps_its_shape(sources):
    one = [patch_source(source.image, source.coverage[..., 0], source.inside) for source in sources]
    assert sample_patches(one, 40, 3, np.random.default_rng(0))[1].shape == (3, 40, 40)
    axis = [patch_source(source.image, source.coverage[..., :1], source.inside) for source in sources]
    assert sample_patches(axis, 40, 3, np.random.default_rng(0))[1].shape == (3, 40, 40, 1)


def one_tile_at_a_time(image, predict, tile, overlap, inside):
    """`predict_tiles` as a double loop over tiles."""
    height, width = image.shape[:2]
    tops, lefts = tile_starts(height, tile, overlap), tile_starts(width, tile, overlap)
    rim = ((-tops[0], tops[-1] + tile - height), (-lefts[0], lefts[-1] + tile - width), (0, 0))
    padded, window = np.pad(image, rim, mode="reflect").astype(np.float32), blending_window(tile, overlap)[..., None]
    total, weight = 0 * predict(padded[None])[0], np.zeros((*padded.shape[:2], 1), np.float32)
    for top in tops:
        for left in lefts:
            if inside is None or inside[max(top, 0) : top + tile, max(left, 0) : left + tile].any():
                here = np.s_[top - tops[0] :, left - lefts[0] :]
                total[here][:tile, :tile] += window * predict(padded[here][None, :tile, :tile])[0]
                weight[here][:tile, :tile] += window
    result = (total / np.maximum(weight, 1e-12))[-tops[0] :, -lefts[0] :][:height, :width]
    return result if inside is None else np.where(inside[..., None], result, 0)


def dimmed(tiles):
    """Two maps, which say less of the upper rim of a tile than of the rest."""
    maps = tiles[..., :2].copy()
    maps[:, :8] *= 0.5
    return maps


@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("batch", [None, 1, 3])
def test_tiles_are_the_plain_loop_to_the_bit(sources, overlap, batch):
    source = sources[0]
    for inside in (None, source.inside):
        found = predict_tiles(source.image, dimmed, 80, overlap, inside, batch)
        assert found.dtype == np.float32 and found.shape == (192, 192, 2)
        assert (found == one_tile_at_a_time(source.image, dimmed, 80, overlap, inside)).all()
    assert predict_tiles(source.image, lambda tiles: tiles[..., :1], 80, overlap).shape == (192, 192)


@pytest.mark.parametrize("wrong", [lambda t: t[:, :40], lambda t: t[:1], lambda t: t[..., 0], lambda t: t[:, :, :9]])
def test_a_network_that_does_not_fit_is_named(sources, wrong):
    with pytest.raises(RetinalError, match="does not fit its card"):
        predict_tiles(sources[0].image, wrong, 80)


def test_no_more_than_a_batch_is_asked_at_once(sources):
    asked = []

    def network(tiles):
        asked.append(len(tiles))
        return tiles

    predict_tiles(sources[0].image, network, 64, 0.5, batch=7)
    assert max(asked) == 7 and set(asked[:-1]) == {7} and sum(asked) == len(tile_starts(192, 64, 0.5)) ** 2


def test_hard_negatives_are_where_the_network_sees_and_the_mask_does_not(sources, corrected):
    for source, found in zip(sources, corrected):
        maps = predict_tiles(source.image, is_bright, 96, 0, source.inside)
        assert len(found.hard_negatives) == len(LESIONS) and found.lesions == source.lesions
        for kind, pixels in enumerate(found.hard_negatives):
            columns, rows = pixels.T
            assert (maps[rows, columns, kind] >= LEAST_PROBABILITY).all() and source.inside[rows, columns].all()
            assert not source.coverage[rows, columns, kind].any()
            away = (source.coverage[..., kind] == 0).all() and (maps[..., kind] >= LEAST_PROBABILITY).sum()
            assert not away or len(pixels) == away
    assert sum(len(found.hard_negatives[0]) for found in corrected) > 100


def test_a_share_of_the_patches_is_placed_on_hard_negatives(corrected):
    marked = []
    for source in corrected:
        wrong = np.zeros(source.coverage.shape, np.uint8)
        for kind, pixels in enumerate(source.hard_negatives):
            wrong[pixels[:, 1], pixels[:, 0], kind] = 255
        marked.append(replace(source, coverage=wrong))
    shown = [
        np.mean(
            sample_patches(marked, 16, 300, np.random.default_rng(2), 0, hard_negative_share=share)[1].any((1, 2, 3))
        )
        for share in (0, 0.5, 1)
    ]
    assert shown[0] + 0.1 < shown[1] < shown[2] - 0.1 and shown[2] > 0.8


def test_words():
    """One word for one thing: hard negatives, in parameters and fields, and augmentations by name."""
    assert "hard_negative_share" in inspect.signature(sample_patches).parameters
    assert list(AUGMENTATIONS) == ["none", "paper", "rich", "camera"] and AUGMENTATIONS["none"] == Augmentation()
