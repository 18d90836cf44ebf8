"""Encoders, classifier, segmenter and transfer, for all four encoders, on whichever backend KERAS_BACKEND names."""

import keras
import numpy as np
import pytest

from retinal_tl.cbam import CBAM
from retinal_tl.classifier import build_classifier
from retinal_tl.core import RetinalError
from retinal_tl.encoders import SIDE_MULTIPLE, LayerOptions, build_encoder, convolution, encoder_of
from retinal_tl.losses import make_loss
from retinal_tl.registries import ENCODERS, LOSSES, POOLINGS, TRANSFERS
from retinal_tl.segmenter import build_segmenter, finetune, transfer_encoder

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.jax]
on_one_backend = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="what it tests knows no backend")

WIDTH, SIDE, COUNT = 0.125, 32, 4


@pytest.fixture(scope="module")
def photos():
    return np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3)).astype("float32")


@pytest.fixture(scope="module")
def masks(photos):
    return (photos[..., 1:2] > 200).astype("float32")


def snapshot(model):
    """Every weight of a model, means and variances included, as (layer name, weight name) to array."""
    return {
        (layer.name, weight.path): np.array(keras.ops.convert_to_numpy(weight))
        for layer in model.layers
        for weight in layer.weights
    }


def changed_classifier(name):
    """A classifier in which every weight, mean and variance is another than in a new one, as after training."""
    rng = np.random.default_rng(1)
    classifier = build_classifier(name, WIDTH)
    classifier.set_weights([weight + rng.uniform(0.01, 0.02, weight.shape) for weight in classifier.get_weights()])
    return classifier


def fit(segmenter, photos, masks, eagerly):
    segmenter.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", run_eagerly=eagerly)
    segmenter.optimizer.build(segmenter.trainable_variables)  # as `train` does, so that the step is traced once
    segmenter.fit(photos, masks, batch_size=2, epochs=1, verbose=0)


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for key in first:
        assert np.array_equal(first[key], second[key]), key


# The library's own, before a test adds any.
OWN = {registry.kind: tuple(registry) for registry in (ENCODERS, POOLINGS, TRANSFERS, LOSSES)}


@pytest.mark.parametrize("registry", [ENCODERS, POOLINGS, TRANSFERS, LOSSES], ids=list(OWN))
def test_every_entry_is_there_and_says_what_it_needs(registry):
    said = {
        "encoder": {
            *("side_multiple", "photo_skip", "cbam", "attention", "parameters", "channels", "decoder"),
            *("natural", "published"),
        },
        "pooling": {"whole_crop", "fixed_size"},
        "transfer": {"stage1"},
        "loss": {"image_level"},
    }
    for name in OWN[registry.kind]:
        function = registry[name]
        assert callable(function) and function.__doc__, name
        assert (
            function.__module__
            in {  # in the rooms that its page names
                "encoder": ("retinal_tl.encoders", "retinal_tl.efficientnet"),
                "pooling": ("retinal_tl.classifier",),
                "transfer": ("retinal_tl.segmenter",),
                "loss": ("retinal_tl.losses",),
            }[registry.kind]
        )
        assert set(registry.needs(name)) == said[registry.kind]


@on_one_backend
@pytest.mark.parametrize("name", OWN["encoder"])
def test_encoders_need_what_they_say(name):
    needs, segmenter = ENCODERS.needs(name), build_segmenter(name, WIDTH)
    side, encoder = needs["side_multiple"], encoder_of(segmenter)
    assert segmenter(np.zeros((1, side, 3 * side, 3))).shape == (1, side, 3 * side, 1)
    with pytest.raises(Exception):
        segmenter(np.zeros((1, side, side + side // 2, 3)))
    assert encoder.compute_output_shape((1, side, side, 3))[0][1] == side // (2 if needs["photo_skip"] else 1)

    def pays_attention(one):
        return any(isinstance(layer, CBAM) for layer in one.layers)

    assert pays_attention(encoder) == needs["cbam"]
    if needs["attention"] is not None:
        assert pays_attention(build_encoder(needs["attention"], WIDTH)) != needs["cbam"]


@pytest.mark.parametrize("name", OWN["pooling"])
def test_poolings_need_what_they_say(name, photos):
    needs = POOLINGS.needs(name)
    classifier = build_classifier("vgg16", WIDTH, name, image_size=SIDE)
    assert classifier.input_shape[1] == (SIDE if needs["fixed_size"] else None)
    assert needs["whole_crop"] == any(layer.name == "scores" for layer in classifier.layers)
    if needs["fixed_size"]:
        with pytest.raises(RetinalError, match=f"'{name}' needs an image_size"):
            build_classifier("vgg16", WIDTH, name)


@pytest.mark.parametrize("name", OWN["transfer"])
def test_transfers_need_what_they_say(name):
    segmenter = build_segmenter("vgg16", WIDTH)
    if TRANSFERS.needs(name)["stage1"]:
        with pytest.raises(RetinalError, match=f"'{name}' needs a classifier of stage 1"):
            transfer_encoder(None, segmenter, name)
    else:
        assert transfer_encoder(None, segmenter, name) is segmenter


@pytest.mark.parametrize("name", OWN["loss"])
def test_losses_judge_what_they_say(name):
    assert LOSSES.needs(name)["image_level"] == name.endswith("bce")
    if LOSSES.needs(name)["image_level"]:
        right, wrong = (float(make_loss(name)(np.array([[1.0]]), np.array([[p]]))) for p in (0.9, 0.1))
        assert right < wrong


def two_scales(photo, width, l2, dtype):
    """An encoder of one's own: two maps, the finest half as large as the photo."""
    options = LayerOptions(l2, dtype)
    fine = convolution(photo, 8, "fine", stride=2, options=options)
    return [fine, convolution(fine, 16, "coarse", stride=2, options=options)]


def coarse_only(source, target):
    """A transfer of one's own: the finest layer stays as it is."""
    finetune(source, target)
    target.get_layer("fine").trainable = target.get_layer("fine_bn").trainable = False


@pytest.fixture
def own():
    """An encoder, a transfer and a loss of one's own, while a test lasts."""
    ENCODERS.add("two_scales", two_scales, side_multiple=4, photo_skip=True, attention=None)
    TRANSFERS.add("coarse_only", coarse_only, stage1=True)
    LOSSES.add("squared", lambda y_true, y_pred: keras.ops.mean((y_true - y_pred) ** 2), image_level=True)
    yield
    ENCODERS.remove("two_scales")
    TRANSFERS.remove("coarse_only")
    LOSSES.remove("squared")


@on_one_backend
def test_one_call_adds_an_encoder_a_transfer_and_a_loss(own, photos, masks, tmp_path):
    """Both stages take them as they take the library's own: trained, in mixed precision too, saved and read."""
    classifier = build_classifier("two_scales", WIDTH, "logsumexp", l2=1e-4)
    classifier.compile("adam", make_loss("squared+bce"), run_eagerly=True)
    classifier.fit(photos, masks.max((1, 2)), epochs=1, verbose=0)
    theirs = snapshot(encoder_of(classifier))
    segmenter = transfer_encoder(
        classifier, build_segmenter("two_scales", WIDTH, dtype="mixed_bfloat16", kinds=2), "coarse_only"
    )
    assert_equal(theirs, snapshot(encoder_of(segmenter)))
    segmenter.compile(keras.optimizers.Adam(0.01), make_loss("squared+dice"), run_eagerly=True)
    segmenter.fit(photos, np.concatenate([masks, masks], -1), batch_size=2, epochs=1, verbose=0)
    after = snapshot(encoder_of(segmenter))
    assert {name for (name, path), value in after.items() if not np.array_equal(value, theirs[name, path])} == {
        "coarse",
        "coarse_bn",
    }
    segmenter.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert np.array_equal(np.asarray(segmenter(photos)), np.asarray(again(photos)))


def test_what_one_has_not_added_is_one_sentence():
    for build in (
        lambda: build_segmenter("two_scales"),
        lambda: build_classifier("two_scales"),
        lambda: make_loss("squared+bce"),
        lambda: transfer_encoder(None, build_segmenter("vgg16", WIDTH), "coarse_only"),
    ):
        with pytest.raises(RetinalError, match="There is no "):
            build()


def test_an_encoder_that_does_not_keep_its_promise_is_refused():
    for side_multiple, photo_skip in ((4, False), (2, True)):
        ENCODERS.add("broken", two_scales, side_multiple=side_multiple, photo_skip=photo_skip, attention=None)
        try:
            with pytest.raises(RetinalError, match="feature maps of the encoder 'broken' have sides"):
                build_encoder("broken", WIDTH)
        finally:
            ENCODERS.remove("broken")


@pytest.mark.parametrize("name", OWN["encoder"])
def test_frozen_stays_and_finetune_moves(name, photos, masks):
    if keras.backend.backend() != "tensorflow" and name not in ("vgg16_cbam", "resnet50_cbam"):
        pytest.skip("the encoder with attention has all of its layers, and XLA takes its time")
    eagerly = (
        keras.backend.backend() == "tensorflow" and name != "vgg16"
    )  # two steps are sooner made than compiled; once they are compiled
    classifier = changed_classifier(name)
    theirs = snapshot(encoder_of(classifier))
    assert all(value.all() for (_, path), value in theirs.items() if path.endswith("moving_mean"))

    frozen = transfer_encoder(classifier, build_segmenter(name, WIDTH), "frozen")
    assert_equal(theirs, snapshot(encoder_of(frozen)))
    assert not encoder_of(frozen).trainable_weights
    decoder = snapshot(frozen.get_layer("decoder"))
    fit(frozen, photos, masks, eagerly)
    assert_equal(theirs, snapshot(encoder_of(frozen)))
    after = snapshot(frozen.get_layer("decoder"))
    assert all(not np.array_equal(decoder[key], after[key]) for key in decoder)

    expected = encoder_of(classifier)(photos, training=False)
    frozen(photos, training=True)
    for training in (False, True):
        for first, second in zip(expected, encoder_of(frozen)(photos, training=training)):
            assert np.array_equal(np.asarray(first), np.asarray(second))
    assert_equal(theirs, snapshot(encoder_of(frozen)))

    finetuned = transfer_encoder(classifier, build_segmenter(name, WIDTH), "finetune")
    assert_equal(theirs, snapshot(encoder_of(finetuned)))
    fit(finetuned, photos, masks, eagerly)
    moved = snapshot(encoder_of(finetuned))
    still = {key for key in theirs if np.array_equal(theirs[key], moved[key])}
    # A hidden unit of the channel attention can be silent on these photos; everything else must have moved.
    assert all("squeeze" in path or "excite" in path for _, path in still), still
    assert_equal(theirs, snapshot(encoder_of(classifier)))


def test_scratch_copies_nothing_and_frees_the_encoder():
    classifier, segmenter = changed_classifier("vgg16"), build_segmenter("vgg16", WIDTH)
    before = snapshot(segmenter)
    encoder_of(segmenter).trainable = False
    assert transfer_encoder(classifier, segmenter, "scratch") is segmenter
    assert_equal(before, snapshot(segmenter))
    assert encoder_of(segmenter).trainable_weights


@pytest.mark.parametrize("transfer", OWN["transfer"])
def test_a_saved_segmenter_is_the_same_and_as_frozen(transfer, photos, tmp_path):
    segmenter = transfer_encoder(build_classifier("vgg16_cbam", WIDTH), build_segmenter("vgg16_cbam", WIDTH), transfer)
    segmenter.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(np.asarray(segmenter(photos)), np.asarray(again(photos)))
    assert bool(encoder_of(again).trainable_weights) == (transfer != "frozen")


@pytest.mark.parametrize("pooling", OWN["pooling"])
def test_a_saved_classifier_is_the_same(pooling, photos, tmp_path):
    classifier = build_classifier("vgg16_cbam", WIDTH, pooling, image_size=SIDE)
    classifier.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(np.asarray(classifier(photos)), np.asarray(again(photos)))


@pytest.mark.parametrize("name", ["vgg16_cbam", "resnet50_cbam"])
def test_a_float32_twin_takes_the_weights_of_mixed_precision(name, photos):
    keras.utils.set_random_seed(2)
    mixed, twin = build_segmenter(name, WIDTH, dtype="mixed_bfloat16"), build_segmenter(name, WIDTH)
    for _ in range(10):
        mixed(photos, training=True)  # without running statistics the residual sums of a ResNet50 grow too large
    assert {weight.dtype for weight in mixed.weights} == {"float32"}
    twin.set_weights(mixed.get_weights())
    first, second = np.asarray(mixed(photos)), np.asarray(twin(photos))
    assert first.dtype == second.dtype == np.float32
    assert np.abs(first - second).mean() < 0.02


@pytest.mark.parametrize("name", OWN["encoder"])
def test_layer_names_are_stable(name):
    names = [layer.name for layer in build_encoder(name, WIDTH).layers if layer.weights]
    assert len(set(names)) == len(names)
    assert names == [layer.name for layer in build_encoder(name, WIDTH).layers if layer.weights]
    assert all(part.split("_")[0].rstrip("0123456789") in ("block", "stage", "stem") for part in names)
    attention = sum(name.endswith("_cbam") for name in names)
    assert attention == {"vgg16_cbam": 5, "resnet50_cbam": 16}.get(name, 0)


@pytest.mark.parametrize("name", ["vgg16", "resnet50"])
def test_sides_are_multiples_of_32(name):
    segmenter = build_segmenter(name, WIDTH)
    shape = (1, SIDE_MULTIPLE, 3 * SIDE_MULTIPLE)
    assert segmenter(np.zeros((*shape, 3))).shape == (*shape, 1)
    with pytest.raises(Exception):
        segmenter(np.zeros((1, 33, 64, 3)))
    with pytest.raises(Exception):
        segmenter(np.zeros((1, 64, 40, 3)))


@pytest.mark.parametrize("name", ["vgg16_cbam", "resnet50_cbam"])
def test_each_photo_of_a_batch_counts_for_itself(name, photos):
    segmenter = build_segmenter(name, WIDTH)
    together = np.asarray(segmenter(photos))
    alone = np.concatenate([np.asarray(segmenter(photo[None])) for photo in photos])
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_l2_is_paid_for_every_convolution_of_the_encoder_and_decoder():
    segmenter = build_segmenter("vgg16", WIDTH, l2=0.01)
    kernels = [
        layer.kernel
        for part in ("encoder", "decoder")
        for layer in segmenter.get_layer(part).layers
        if isinstance(layer, keras.layers.Conv2D)
    ]
    expected = 0.01 * sum(float(keras.ops.sum(keras.ops.square(kernel))) for kernel in kernels)
    assert float(sum(segmenter.losses)) == pytest.approx(expected, rel=1e-4)


def test_same_seed_same_weights():
    def weights():
        keras.utils.set_random_seed(7)
        return build_segmenter("vgg16_cbam", WIDTH).get_weights()

    assert all(np.array_equal(*pair) for pair in zip(weights(), weights()))


def test_cbam_from_the_equations():
    """Woo et al. 2018, equations 1 to 3, in NumPy, at a depth where the hidden layer follows the published ratio."""
    rng = np.random.default_rng(3)
    features = rng.random((2, 6, 9, 256), "float32")
    cbam = CBAM()
    cbam(features)
    squeeze, excite = (np.array(weight, "float64") for weight in cbam.channel.get_weights())
    (kernel,) = (np.array(weight, "float64") for weight in cbam.spatial.get_weights())
    assert squeeze.shape == (256, 16) and kernel.shape == (7, 7, 2, 1)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    pooled = features.mean((1, 2)), features.max((1, 2))
    channel = sigmoid(sum(np.maximum(x @ squeeze, 0) @ excite for x in pooled))
    refined = features * channel[:, None, None]
    maps = np.pad(np.stack([refined.mean(-1), refined.max(-1)], -1), ((0, 0), (3, 3), (3, 3), (0, 0)))
    spatial = sigmoid(sum(maps[:, i : i + 6, j : j + 9] @ kernel[i, j] for i in range(7) for j in range(7)))
    np.testing.assert_allclose(np.asarray(cbam(features)), refined * spatial, atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Keras writes ONNX on the TensorFlow backend")
@pytest.mark.parametrize(
    "build",
    [
        lambda: build_segmenter("vgg16_cbam", WIDTH),
        lambda: build_segmenter("resnet50_cbam", WIDTH),
        lambda: build_classifier("vgg16", WIDTH, "logsumexp"),
    ],
    ids=["vgg16", "resnet50", "classifier"],
)
def test_the_layers_survive_as_onnx(build, photos, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    model = build()
    expected = np.asarray(model(photos))
    model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    name = session.get_inputs()[0].name
    np.testing.assert_allclose(session.run(None, {name: photos})[0], expected, atol=1e-5)
    wide = np.tile(photos[:1], (1, 2, 3, 1))
    np.testing.assert_allclose(session.run(None, {name: wide})[0], np.asarray(model(wide)), atol=1e-5)
