"""Heat maps of the classifier, on whichever backend KERAS_BACKEND names."""

import json
import sys
from types import SimpleNamespace

import cv2
import keras
import numpy as np
import pytest
from keras import layers, ops
from PIL import Image

from retinal_tl.classifier import build_classifier
from retinal_tl.core import RetinalError
from retinal_tl.datasets import Example
from retinal_tl.encoders import LayerOptions, build_encoder, convolution, encoder_of
from retinal_tl.gradcam import (
    class_maps,
    evidence,
    gain,
    grad_cam,
    gradient,
    lesion_mass,
    lesion_score,
    map_grid,
    mass_on_lesions,
    photo_heat,
)
from retinal_tl.leakage import read_signatures, write_signatures
from retinal_tl.preprocess import FieldOfView, Prepared, Preprocessing, prepare
from retinal_tl.registries import ENCODERS, POOLINGS
from retinal_tl.synthetic import phantom
from retinal_tl.uncertainty import bootstrap_interval

pytestmark = [pytest.mark.slow, pytest.mark.jax]

WIDTH, SIDE = 0.125, 64


def noise(count=1, side=SIDE, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, (count, side, side, 3)).astype("float32")


def block_means(image, side):
    """Means over squares of `side` pixels: (n, h, w, c) to (n, h / side, w / side, c)."""
    return image.reshape(len(image), image.shape[1] // side, side, image.shape[2] // side, side, -1).mean((2, 4))


@pytest.fixture
def linear():
    """A classifier without ReLU: means over 8 x 8 pixels, mixed to three channels, pooled, weighted."""
    photo, whole = keras.Input((None, None, 3)), keras.Input((None, None, 3))
    pooled = layers.AveragePooling2D(8)(layers.Rescaling(1 / 255)(photo))
    encoder = keras.Model(photo, [pooled, layers.Conv2D(3, 1, use_bias=False, name="mix")(pooled)], name="encoder")
    x = layers.GlobalAveragePooling2D()(encoder(whole)[-1])
    model = keras.Model(whole, layers.Dense(1, "sigmoid", name="lesion")(x))
    encoder.get_layer("mix").set_weights([np.array([[1, 2, 0], [0, 1, -1], [0.5, 0, 1]])[None, None]])
    model.get_layer("lesion").set_weights([np.array([[2.0], [-1.0], [0.1]]), np.array([0.3])])
    return model


def test_closed_form(linear):
    photos = noise(2)
    mix, weights = (
        encoder_of(linear).get_layer("mix").get_weights()[0][0, 0],
        linear.get_layer("lesion").get_weights()[0][:, 0],
    )
    expected = np.maximum(block_means(photos / 255, 8) @ mix @ weights, 0) / 64
    assert 0 < (expected > 0).mean() < 1
    for map_index in (-1, 0):
        np.testing.assert_allclose(class_maps(linear, photos, map_index), expected, rtol=1e-4, atol=1e-7)
    heat = grad_cam(linear, photos[0])
    centers = heat[3::8, 3::8]  # up to half a pixel from the centers of positions
    assert heat.max() == 1 and np.corrcoef(centers.ravel(), expected[0].ravel())[0, 1] > 0.99


def hidden_average(features, dropout, l2, dtype):
    """A head of one's own, with a hidden layer."""
    x = layers.Dense(8, "relu", name="hidden")(layers.GlobalAveragePooling2D(name="pooling")(features))
    return layers.Dense(1, "sigmoid", name="lesion")(layers.Dropout(dropout, name="dropout")(x))


def hidden_logsumexp(features, dropout, l2, dtype):
    """One with a hidden layer at each position."""
    x = layers.Conv2D(8, 1, activation="relu", name="hidden")(features)
    return POOLINGS["logsumexp"](x, dropout, l2, dtype)


@pytest.fixture
def hidden():
    """Two poolings of one's own, while a test lasts."""
    POOLINGS.add("hidden_average", hidden_average, whole_crop=False, fixed_size=False)
    POOLINGS.add("hidden_logsumexp", hidden_logsumexp, whole_crop=True, fixed_size=False)
    yield
    POOLINGS.remove("hidden_average")
    POOLINGS.remove("hidden_logsumexp")


@pytest.mark.parametrize(
    "pooling, map_index",
    [("average", 4), ("max", 2), ("logsumexp", -2), ("flatten", 0), ("hidden_average", -1), ("hidden_logsumexp", 3)],
)
def test_score_is_what_the_sigmoid_gets(pooling, map_index, hidden):
    model = build_classifier("vgg16", WIDTH, pooling, image_size=SIDE)
    score = ops.convert_to_numpy(lesion_score(model, map_index)(encoder_of(model)(noise())[map_index]))
    np.testing.assert_allclose(1 / (1 + np.exp(-score)), ops.convert_to_numpy(model(noise())), atol=1e-5)


def test_gradient_is_that_of_finite_differences(hidden):
    keras.utils.set_random_seed(0)
    model = build_classifier("vgg16_cbam", WIDTH, "hidden_logsumexp")
    features = ops.convert_to_numpy(encoder_of(model)(noise())[3])
    features = features + np.random.default_rng(1).uniform(0, 0.1, features.shape).astype(
        "float32"
    )  # no ties for the pooling to break
    score = lesion_score(model, 3)
    slopes = ops.convert_to_numpy(gradient(score, ops.convert_to_tensor(features)))
    direction = slopes / np.linalg.norm(slopes)
    change = [
        float(ops.convert_to_numpy(score(ops.convert_to_tensor(features + sign * 1e-3 * direction)))[0, 0])
        for sign in (1, -1)
    ]
    assert (change[0] - change[1]) / 2e-3 == pytest.approx(float((slopes * direction).sum()), rel=0.05)


# that gradients are the same on another backend, one encoder tells as well as all of them
@pytest.mark.parametrize("name", ENCODERS if keras.backend.backend() == "tensorflow" else ["vgg16_cbam"])
def test_every_encoder_and_map(name):
    keras.utils.set_random_seed(0)
    model = build_classifier(name, WIDTH, "average", dropout=0.5)
    weights = [np.array(weight) for weight in model.get_weights()]
    heats = [evidence(model, noise(2, 40), index) for index in (-1, -2)]
    for heat in heats:
        assert heat.shape == (2, 40, 40) and heat.dtype == np.float32 and np.isfinite(heat).all() and heat.min() >= 0
    np.testing.assert_array_equal(evidence(model, noise(2, 40)), heats[0])  # no dropout, no chance
    for before, after in zip(weights, model.get_weights()):
        np.testing.assert_array_equal(before, after)
    with pytest.raises(RetinalError, match="There is no feature map 5: the encoder has 5"):
        grad_cam(model, noise()[0], 5)


def odd(photo, width, l2, dtype):
    """An encoder of one's own that halves in two ways of its own: a strided 5 x 5, and a padded 3 x 3 pooling."""
    options = LayerOptions(l2, dtype)
    fine = convolution(photo, 8, "fine", size=5, stride=2, options=options)
    x = layers.MaxPooling2D(3, 2, name="pool")(layers.ZeroPadding2D(1, name="pad")(fine))
    middle = convolution(x, 16, "middle", options=options)
    return [fine, middle, convolution(layers.MaxPooling2D(2, name="last_pool")(middle), 16, "coarse", options=options)]


@pytest.fixture
def odd_encoder():
    """The odd encoder, while a test lasts."""
    ENCODERS.add("odd", odd, side_multiple=8, photo_skip=True, attention=None)
    yield
    ENCODERS.remove("odd")


@pytest.mark.parametrize("name, map_index", [("vgg16", 3), ("resnet50", 2), ("odd", 0), ("odd", 1), ("odd", 2)])
def test_positions_look_where_map_grid_says(name, map_index, odd_encoder):
    """The center of what one position depends on; kernels without sign or slant, so that nothing cancels or leans."""
    encoder = build_encoder(name, WIDTH)
    kernels = [np.abs(weight + weight[::-1, ::-1]) if weight.ndim == 4 else weight for weight in encoder.get_weights()]
    encoder.set_weights([kernel / kernel.sum((0, 1, 2)) if kernel.ndim == 4 else kernel for kernel in kernels])
    side, (step, first) = 256, map_grid(encoder, map_index)

    def middle(x):
        return encoder(x)[map_index][:, 15, 16]

    slopes = ops.convert_to_numpy(gradient(middle, ops.convert_to_tensor(noise(1, side))))[0].sum(-1)
    center = [(slopes * axis).sum() / slopes.sum() for axis in np.mgrid[:side, :side]]
    np.testing.assert_allclose(center, [first + 15 * step, first + 16 * step], atol=max(step / 5, 0.5))


def test_an_encoder_of_ones_own_has_heat_maps(odd_encoder):
    highest = np.zeros(3)
    for seed in range(4):  # a random network may hold everything against a lesion, and then its heat is 0
        keras.utils.set_random_seed(seed)
        model = build_classifier("odd", 1, "max")
        for map_index in range(3):
            heat = evidence(model, noise(2, 40), map_index)
            assert heat.shape == (2, 40, 40) and np.isfinite(heat).all() and heat.min() >= 0
            highest[map_index] = max(highest[map_index], heat.max())
    assert (highest > 0).all()


def lesion_on_gray(row, column, side=512):
    photo = np.full((1, side, side, 3), 110, "float32")
    photo[:, row : row + 12, column : column + 12] = (240, 220, 120)
    return photo


@pytest.mark.parametrize("pooling", ["average", "logsumexp"])
def test_heat_follows_a_shifted_lesion(pooling):
    """Shifted by whole positions of the map, far from the border, the lesion takes its heat along."""
    keras.utils.set_random_seed(1)
    model = build_classifier("vgg16", WIDTH, pooling)
    kernel = model.get_layer("lesion" if pooling == "average" else "scores").weights[0]
    gray = np.full((1, 512, 512, 3), 110, "float32")
    flat, lesion = (ops.convert_to_numpy(encoder_of(model)(photo)[-1])[0] for photo in (gray, lesion_on_gray(240, 240)))
    kernel.assign(np.reshape((lesion - flat).sum((0, 1)), kernel.shape))  # a score that the lesion raises
    first, second = (evidence(model, lesion_on_gray(*place))[0] for place in ((240, 240), (240 + 16, 240 - 32)))
    far = first[200, 312]
    window, moved = first[206:286, 206:286], second[206 + 16 : 286 + 16, 206 - 32 : 286 - 32]
    peak = np.add(np.unravel_index(window.argmax(), window.shape), 206)
    assert window.max() > 1.05 * far and np.hypot(*(peak - 245.5)) < 24
    np.testing.assert_allclose(moved, window, atol=1e-4 * window.max())


def test_whole_photograph_in_tiles_and_at_once(linear):
    """Means over squares need no surroundings, so both ways agree; the map has the photograph's size and its place."""
    side, shape = 256, (300, 420)
    image = np.full((side, side, 3), 60, np.uint8)
    image[96:112, 160:176] = 255
    prepared = Prepared(image, np.ones((side, side), bool), FieldOfView(210, 150, 140), shape)
    encoder_of(linear).get_layer("mix").set_weights([np.ones((1, 1, 3, 3))])
    linear.get_layer("lesion").set_weights([np.ones((3, 1)), np.zeros(1)])
    whole, tiled = photo_heat(linear, prepared), photo_heat(linear, prepared, tile=64, overlap=0.5)
    for heat in (whole, tiled):
        assert heat.shape == shape and heat.dtype == np.float32 and heat.max() == 1
        assert not heat[~prepared.field.mask(shape)].any()
        row, column = np.argwhere(heat > 0.9).mean(0)
        assert (
            abs(row - (150 + (103.5 - 127.5) * 280 / 256)) < 2 and abs(column - (210 + (167.5 - 127.5) * 280 / 256)) < 2
        )
    with pytest.raises(RetinalError, match="multiple of 32"):
        photo_heat(linear, prepared, tile=50)


@pytest.fixture
def darkness():
    """A classifier whose score rises with darkness, so that the black outside an eye would speak for a lesion."""
    photo, whole = keras.Input((None, None, 3)), keras.Input((None, None, 3))
    dark = layers.AveragePooling2D(8)(layers.Rescaling(-1 / 255, offset=1)(photo))
    encoder = keras.Model(photo, [dark, layers.AveragePooling2D(2)(dark)], name="encoder")
    model = keras.Model(whole, layers.Dense(1, "sigmoid")(layers.GlobalAveragePooling2D()(encoder(whole)[-1])))
    model.layers[-1].set_weights([np.ones((3, 1)), np.zeros(1)])
    return model


def bordered(photo):
    """Wide black borders, as wide as the eye itself on one side."""
    return np.pad(photo, ((30, 30), (192, 90), (0, 0)))


def cut(photo):
    """Cut off above and below, and on the left."""
    return photo[36:160, 20:]


@pytest.mark.parametrize("tile", [None, 64])
@pytest.mark.parametrize("change", [bordered, cut])
def test_heat_stays_in_a_field_that_does_not_fill_the_picture(change, tile, darkness):
    """Outside it the heat is 0, though the black there would have most; inside it is what it is without borders."""
    settings = Preprocessing(diameter=192, clahe="none")
    eye = phantom(3, size=192, lesions=("exudates", "hemorrhages"))
    photo, mask = change(eye.photo), np.logical_or.reduce(list(eye.masks.values()))
    mask = change(np.repeat(mask[..., None], 3, -1))[..., 0]
    prepared = prepare(photo, settings)
    field = prepared.field.mask(photo.shape[:2])
    heat = photo_heat(darkness, prepared, 0, tile)
    assert heat.shape == photo.shape[:2] and 0.2 < field.mean() < 0.95
    assert not heat[~field].any() and heat[field].max() == 1
    undisturbed = photo_heat(darkness, prepare(eye.photo, settings), 0, tile)
    there = change(np.repeat(undisturbed[..., None], 3, -1))[..., 0]
    away = cv2.erode(np.pad(field, 1).astype(np.uint8), np.ones((17, 17), np.uint8))[1:-1, 1:-1] > 0
    inside = away & (there > 0)  # positions on the rim see some of the black, and how much depends on where they lie
    assert inside.sum() > 10_000 and np.corrcoef(heat[inside], there[inside])[0, 1] > 0.99

    found = mass_on_lesions([("eye", heat, mask, field)])
    assert found.mass == pytest.approx(heat[mask & field].sum() / heat[field].sum(), rel=1e-5)
    assert found.chance == pytest.approx((mask & field).sum() / field.sum())
    # heat, or a mask, that reaches over the field's border, as that of another tool may, counts inside only
    over = mass_on_lesions([("eye", np.where(field, heat, 1), mask | ~field, field)])
    assert over.photos == found.photos
    with pytest.raises(RetinalError, match="nothing to measure"):
        mass_on_lesions([("eye", np.ones(field.shape), ~field, field)])


def test_uniform_map_has_the_share_of_the_mask():
    rng = np.random.default_rng(0)
    masks = rng.random((3, 30, 40)) < 0.1
    items = [
        (str(i), np.full((30, 40), value, np.float32), masks[i], np.ones((30, 40), bool))
        for i, value in enumerate((0.2, 1, 0.7))
    ]
    for _, heat, mask, _ in items:
        assert lesion_mass(heat, mask) == pytest.approx(mask.mean(), rel=1e-6)
    found = mass_on_lesions(items)
    assert found.mass == pytest.approx(found.chance) and found.gain == pytest.approx(1) and len(found.photos) == 3
    low, high = bootstrap_interval(found.shares, gain, scale="log")
    assert low <= 1 <= high


def test_interval_of_the_gain_holds_the_truth_as_often_as_it_says():
    """Shares of twenty photographs drawn from known distributions, a hundred times."""
    rng, held = np.random.default_rng(0), 0
    for i in range(100):
        chance = rng.beta(4, 36, 20)
        shares = np.column_stack([rng.beta(4, 8, 20) * chance * 6, chance])  # twice as much as by chance
        low, high = bootstrap_interval(shares, gain, n=100, seed=i, scale="log")
        held += low <= 2 <= high
    assert 0.88 <= held / 100 <= 0.99


def test_the_tool_measures_unseen_eyes_alone(tmp_path, monkeypatch, darkness):
    """Four eyes, one of them seen in training under another name and one known by its eye: two are measured."""
    import lesion_mass as tool

    settings = Preprocessing(diameter=192, clahe="none")
    examples = []
    for seed in range(4):
        eye = phantom(seed, size=192, lesions=("exudates", "hemorrhages"))
        Image.fromarray(eye.photo).save(photo := tmp_path / f"eye {seed}.png")
        masks = {lesion: tmp_path / f"{lesion} {seed}.png" for lesion in ("exudates", "hemorrhages")}
        for lesion, path in masks.items():
            Image.fromarray(eye.masks[lesion]).save(path)
        examples.append(Example(photo, True, masks, f"eye {seed}", "idrid"))
    run = tmp_path / "run"
    run.mkdir()
    write_signatures(run / "signatures.npz", read_signatures({"seen": examples[0].photo}, tmp_path / "cache")[0])
    card = SimpleNamespace(
        preprocessing=settings,
        overlap=0.25,
        data=SimpleNamespace(training_eyes=("eye 1",)),
        training=SimpleNamespace(settings=dict.fromkeys(tool.SETTINGS, 0)),
        metrics={"validation": {"auc": 0.7, "interval": [0.6, 0.8]}},
        **dict(name="run", created="2026-11-24T03:15:00+00:00", hardware="two cores"),
    )
    monkeypatch.setattr(tool, "read_classifier_card", lambda folder, what: card)
    monkeypatch.setattr(tool, "load_weights", lambda folder: darkness)
    monkeypatch.setattr(tool, "input_side", lambda card: 192)
    monkeypatch.setattr(tool, "open_data", lambda name, root: SimpleNamespace(examples=examples))
    output = tmp_path / "gradcam.json"
    arguments = ["lesion_mass", str(run), "--idrid", "A. Segmentation", "--maps", "0", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", arguments)
    tool.main()
    measured = json.loads(output.read_text())
    found = measured["maps"]["0"]
    assert (measured["outlined"], measured["seen_left_out"], found["images"]) == (4, 2, 2)
    assert [one["name"] for one in found["per_image"]] == ["eye 2.png", "eye 3.png"]
    assert found["pixels_per_position"] == 8 and measured["run"]["validation"] == {"auc": 0.7}
    assert 0 < found["chance"] < found["truth_at_this_size"] < 1
    assert found["gain"] == pytest.approx(found["mass"] / found["chance"])
    assert found["gain_interval"][0] <= found["gain"] <= found["gain_interval"][1]
