"""Metrics against scikit-learn, on random and degenerate maps, and properties that hold for any map."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from retinal_tl.core import RetinalError
from retinal_tl.metrics import (
    BINS,
    average_precision,
    best_threshold,
    binary_metrics,
    calibration_error,
    coarsen,
    confusion,
    confusions,
    eleven_point_aupr,
    pixel_histogram,
    quantize,
    reliability,
    roc_auc,
    threshold_for_sensitivity,
    trivial_accuracy,
)

TOP = BINS - 1
few_examples = settings(max_examples=50, deadline=None)


def random_map(seed, share, levels):
    "Truth and 16-bit levels of 3,000 pixels; `levels` different ones, so that few of them means many ties."
    rng = np.random.default_rng(seed)
    truth = rng.random(3000) < share
    level = np.clip(rng.normal(0.3 + 0.3 * truth, 0.2), 0, 1)
    return truth, (np.rint(level * (levels - 1)) / (levels - 1) * TOP).round().astype("uint16")


cases = [random_map(seed, share, levels) for seed, share in enumerate((0.5, 0.02, 0.9)) for levels in (2, 11, 65536)]
cases += [(np.arange(50) < 20, np.full(50, level, "uint16")) for level in (0, 1, 30000, TOP)]  # one level, all tied
cases += [
    (np.arange(50) < 20, np.where(np.arange(50) < 20, 40000, 300).astype("uint16")),  # perfect
    (np.arange(50) < 20, np.where(np.arange(50) < 20, 300, 40000).astype("uint16")),  # the wrong way round
    (np.arange(2) < 1, np.array([5, 5], "uint16")),
    (np.ones(30, bool), np.arange(30, dtype="uint16")),
]
with_lesion = pytest.mark.parametrize("truth, level", cases)


@with_lesion
def test_areas_agree_with_scikit_learn(truth, level):
    h = pixel_histogram(level, truth)
    assert average_precision(h) == pytest.approx(sk.average_precision_score(truth, level), abs=1e-12)
    if not truth.all():
        assert roc_auc(h) == pytest.approx(sk.roc_auc_score(truth, level), abs=1e-12)
    else:
        assert np.isnan(roc_auc(h))


@with_lesion
@pytest.mark.parametrize("threshold", [0, 0.1, 1 / 3, 0.5, 0.9, 1])
def test_counts_agree_with_scikit_learn(truth, level, threshold):
    h, marked = pixel_histogram(level, truth), level >= round(threshold * TOP)
    at = confusion(h, threshold)
    assert (at.tn, at.fp, at.fn, at.tp) == tuple(sk.confusion_matrix(truth, marked, labels=[False, True]).ravel())
    assert at.accuracy == pytest.approx(sk.accuracy_score(truth, marked))
    for ours, theirs in (
        (at.sensitivity, sk.recall_score(truth, marked, zero_division=np.nan)),
        (at.specificity, sk.recall_score(~truth, ~marked, zero_division=np.nan)),
        (at.precision, sk.precision_score(truth, marked, zero_division=np.nan)),
        (at.dice, sk.f1_score(truth, marked, zero_division=np.nan)),
        (at.iou, sk.jaccard_score(truth, marked)),
    ):
        assert ours == pytest.approx(theirs, nan_ok=True)
    every, index = confusions(h), round(threshold * TOP)
    assert (every.tp[index], every.fp[index], every.fn[index], every.tn[index]) == (at.tp, at.fp, at.fn, at.tn)


@with_lesion
def test_eleven_points_as_written_out(truth, level):
    precision, recall = [], []
    for i in range(11):
        marked = level.astype(int) * 10 > i * TOP
        precision.append(sk.precision_score(truth, marked, zero_division=1))
        recall.append(sk.recall_score(truth, marked))
    assert eleven_point_aupr(pixel_histogram(level, truth)) == pytest.approx(sk.auc(recall, precision), abs=1e-12)


@pytest.mark.slow
def test_no_lesion_is_nan_not_a_number_to_average():
    h = pixel_histogram(np.linspace(0, 1, 100), np.zeros(100, bool))
    empty = pixel_histogram(np.zeros(5), np.zeros(5))
    for value in (
        average_precision(h),
        eleven_point_aupr(h),
        roc_auc(h),
        best_threshold(h),
        threshold_for_sensitivity(h, 0.9),
        confusion(h, 0.5).sensitivity,
        confusion(empty, 0.5).dice,
    ):
        assert np.isnan(value)
    assert confusion(h, 0.5).specificity == 0.5 and trivial_accuracy(h) == 1


def test_no_pixel_at_all():
    h = pixel_histogram(np.zeros((0, 7)), np.zeros((0, 7), bool))
    assert np.isnan([average_precision(h), roc_auc(h), confusion(h, 0.5).accuracy, trivial_accuracy(h)]).all()


def test_all_lesion():
    h = pixel_histogram(np.linspace(0, 1, 100), np.ones(100, bool))
    assert average_precision(h) == 1 and trivial_accuracy(h) == 0
    assert np.isnan(roc_auc(h)) and np.isnan(confusion(h, 0.5).specificity)
    assert best_threshold(h) == 0 and threshold_for_sensitivity(h, 0.5) == pytest.approx(50 / 99, abs=1e-4)


@pytest.mark.parametrize("bad", [[0.5, np.nan], [-0.1, 0.5], [0.5, np.inf], [0, 1], np.array([0, 255], "uint8")])
def test_values_that_are_no_probabilities(bad):
    with pytest.raises(RetinalError):
        pixel_histogram(np.array(bad), np.array([True, False]))


def test_kinds_of_arrays_count_alike():
    level = np.random.default_rng(0).integers(0, BINS, (40, 50)).astype("uint16")
    mask, field = level % 7 == 0, level % 3 > 0
    want = pixel_histogram(level, mask, field).counts
    for same in (level / TOP, (level / TOP).astype("float32"), np.asfortranarray(level)):
        assert (pixel_histogram(same, mask.astype("uint8"), field.astype("uint8")).counts == want).all()
    assert (pixel_histogram(level[::-1], mask[::-1], field[::-1]).counts == want).all()


# Properties of any map: pairs of truth and level
levels = st.one_of(st.integers(0, 5), st.integers(0, TOP), st.just(TOP))  # with many ties
pixels = st.integers(1, 200).flatmap(
    lambda n: st.tuples(arrays.arrays(bool, n), arrays.arrays(np.uint16, n, elements=levels))
)
figures = (
    average_precision,
    eleven_point_aupr,
    roc_auc,
    trivial_accuracy,
    best_threshold,
    lambda h: confusion(h, 0.5).dice,
)


@pytest.mark.slow
@few_examples
@given(pixels, st.randoms(use_true_random=False))
def test_order_of_pixels_does_not_matter(map, random):
    truth, level = map
    order = random.sample(range(len(truth)), len(truth))
    before, after = pixel_histogram(level, truth), pixel_histogram(level[order], truth[order])
    for figure in figures:
        assert figure(after) == pytest.approx(figure(before), nan_ok=True)


@few_examples
@given(pixels, pixels, pixels)
def test_joining_histograms_is_joining_pixels(first, second, third):
    a, b, c = (pixel_histogram(level, truth) for truth, level in (first, second, third))
    joined = pixel_histogram(*(np.concatenate(parts) for parts in zip(first[::-1], second[::-1], third[::-1])))
    for total in (a + b + c, c + (b + a), sum([b, c, a])):
        assert (total.counts == joined.counts).all()
    assert ((coarsen(a) + coarsen(b) + coarsen(c)).counts == coarsen(joined).counts).all()


@few_examples
@given(pixels, st.lists(st.integers(1, 40), min_size=BINS // 4096, max_size=BINS // 4096))
def test_monotone_transform_leaves_areas(map, steps):
    truth, level = map
    assume(truth.any())
    level = level // 64  # to leave room for a transform that is strictly increasing
    transformed = np.cumsum(np.repeat(steps, 64))[level]
    before, after = pixel_histogram(level, truth), pixel_histogram(transformed.astype("uint16"), truth)
    assert average_precision(after) == pytest.approx(average_precision(before))
    assert roc_auc(after) == pytest.approx(roc_auc(before), nan_ok=True)
    highest = confusions(after).dice.max()
    assert highest == pytest.approx(confusions(before).dice.max())


@few_examples
@given(pixels, st.floats(0, 1))
def test_thresholds_do_what_they_are_asked(map, sensitivity):
    truth, level = map
    assume(truth.any())
    h = pixel_histogram(level, truth)
    for by in ("dice", "iou", "youden"):
        ratios = getattr(confusions(h), by)
        if np.isnan(ratios).all():
            continue  # no background: specificity is not defined
        assert getattr(confusion(h, best_threshold(h, by)), by) == pytest.approx(np.nanmax(ratios))
    threshold = threshold_for_sensitivity(h, sensitivity)
    assert confusion(h, threshold).sensitivity >= sensitivity
    if threshold < 1 and sensitivity > 0:
        assert confusion(h, threshold + 1 / TOP).sensitivity < sensitivity


@few_examples
@given(pixels, st.floats(0, 1))
def test_coarse_counts_are_exact_where_kept(map, threshold):
    truth, level = map
    h = pixel_histogram(level, truth)
    exact, kept = confusion(h, threshold), confusion(coarsen(h, [threshold]), threshold)
    assert (kept.tp, kept.fp) == (exact.tp, exact.fp)


@few_examples
@given(arrays.arrays(np.float64, 20, elements=st.floats(0, 1)))
def test_quantize_keeps_order_and_is_near(values):
    level = quantize(values)
    assert (np.diff(level[np.argsort(values)].astype(int)) >= 0).all()
    assert np.abs(level / TOP - values).max() <= 0.5 / TOP + 1e-12


def test_classifier_figures_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.random(300) < 0.3
    probabilities = quantize(np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0, 1)) / TOP
    found = binary_metrics(labels, probabilities, threshold=0.55)
    marked = probabilities >= 0.55
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(labels, marked))
    assert found["recall"] == pytest.approx(sk.recall_score(labels, marked))
    assert found["precision"] == pytest.approx(sk.precision_score(labels, marked))
    assert found["auc"] == pytest.approx(sk.roc_auc_score(labels, probabilities))
    assert found["aupr"] == pytest.approx(sk.average_precision_score(labels, probabilities))


maps = st.integers(1, 300).flatmap(lambda n: st.tuples(arrays.arrays(np.uint16, n), arrays.arrays(bool, n)))


@few_examples
@given(maps, st.integers(1, 20))
def test_reliability_agrees_with_scikit_learn(one, bins):
    level, truth = one
    assume(0 < truth.sum() < len(truth))
    share, probability = calibration_curve(truth, level / TOP, n_bins=bins)
    found = reliability(pixel_histogram(level, truth), bins)
    if len(share) != len(found["share"]):
        return  # a float edge of scikit-learn lies on the other side of a level
    assert found["pixels"].sum() == len(truth)
    assert found["share"] == pytest.approx(share) and found["probability"] == pytest.approx(probability)


@few_examples
@given(maps, maps, st.floats(0, 1))
def test_calibration_of_joined_parts_in_any_order(first, second, floor):
    a, b = (pixel_histogram(*one) for one in (first, second))
    together = pixel_histogram(*(np.concatenate(parts) for parts in zip(second, first)))
    for joined in (a + b, b + a):
        assert calibration_error(joined, floor=floor) == pytest.approx(
            calibration_error(together, floor=floor), nan_ok=True
        )
    kept = np.concatenate([first[0], second[0]]) >= quantize(floor)
    assert reliability(together, floor=floor)["pixels"].sum() == kept.sum()


def test_calibration_error_as_written_out():
    rng = np.random.default_rng(0)
    level = rng.integers(0, BINS, 5000).astype(np.uint16)
    truth = rng.random(5000) < (level / TOP) ** 2
    error = 0
    for i in range(15):
        inside = (level > i * TOP / 15) & (level <= (i + 1) * TOP / 15) | ((level == 0) & (i == 0))
        error += abs((level[inside] / TOP).mean() - truth[inside].mean()) * inside.sum() / 5000
    h = pixel_histogram(level, truth)
    assert calibration_error(h) == pytest.approx(error) and calibration_error(h) > 0.1
    assert calibration_error(coarsen(h)) == pytest.approx(error, abs=1e-3)


def test_a_whole_photograph_in_time_and_memory():
    "4288 x 2848 in under 0.5 s of processor time (a busy machine must not fail it) and 100 MB beside the map."
    import time
    import tracemalloc

    rng = np.random.default_rng(0)
    probability = rng.random((2848, 4288), "float32") ** 4
    mask = probability > rng.random((2848, 4288), "float32")
    start = time.process_time()
    h = pixel_histogram(probability, mask)
    average_precision(h), roc_auc(h), eleven_point_aupr(h), best_threshold(h), confusion(h, 0.5)
    assert time.process_time() - start < 0.5
    tracemalloc.start()
    try:
        pixel_histogram(probability, mask, mask)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 100e6
