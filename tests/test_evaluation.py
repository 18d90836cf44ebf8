"""A whole evaluation: against scikit-learn and the parts it is made of, in any order, in bounded memory, and in pictures."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from matplotlib.colors import to_rgb
from scipy.ndimage import label
from sklearn import metrics as sk

from retinal_tl.core import RetinalError
from retinal_tl.pictures import OUTCOME_COLORS, contact_sheet, plot_example, plot_froc, plot_precision_recall, plot_reliability, plot_roc
from retinal_tl.evaluation import collect, evaluate_classifier, evaluate_segmentation, image_level, lesion_level, rank_images
from retinal_tl.lesions import score_lesions
from retinal_tl.metrics import BINS, quantize

TOP = BINS - 1
few_examples = settings(max_examples=15, deadline=None)


def photographs(count=8, side=60, seed=0):
    "Items with blobs that a map finds more or less well; every fourth photograph is healthy."
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    field = np.hypot(rows - side / 2, columns - side / 2) < side / 2
    for i in range(count):
        mask, map = np.zeros((side, side), bool), rng.random((side, side)) * 0.3
        for center in rng.integers(10, side - 10, (0 if i % 4 == 3 else rng.integers(1, 5), 2)):
            away = np.hypot(rows - center[0], columns - center[1])
            mask |= away < rng.uniform(2, 6)
            map = np.maximum(map, rng.uniform(0.2, 1) * np.exp(-((away / 5) ** 2)))
        yield f"photo {i}", np.where(field, map, 0).astype("float32"), mask, field


ITEMS = list(photographs())


def plain(result):
    "Every number of a result by its path, without the single photographs."
    if isinstance(result, dict):
        return {
            f"{key}.{name}": one
            for key, part in result.items()
            if key != "per_image"
            for name, one in plain(part).items()
        }
    if isinstance(result, (list, tuple)):
        return {f"{i}.{name}": one for i, part in enumerate(result) for name, one in plain(part).items()}
    return {"": result}


@pytest.mark.parametrize("within_field", [False, True])
def test_figures_are_those_of_scikit_learn(within_field):
    result = evaluate_segmentation(iter(ITEMS), threshold=0.4, within_field=within_field, n=20)
    inside = [item[3] if within_field else np.ones_like(item[3]) for item in ITEMS]
    level, truth = (
        np.concatenate([values(item)[where] for item, where in zip(ITEMS, inside)])
        for values in (lambda item: quantize(item[1]), lambda item: item[2])
    )
    called = level >= quantize(0.4)
    assert result["scope"] == ("field of view" if within_field else "all pixels") and result["pixels"] == len(level)
    for ours, theirs in (
        ("aupr", sk.average_precision_score(truth, level)),
        ("auc", sk.roc_auc_score(truth, level)),
        ("dice", sk.f1_score(truth, called)),
        ("sensitivity", sk.recall_score(truth, called)),
        ("precision", sk.precision_score(truth, called)),
        ("specificity", sk.recall_score(~truth, ~called)),
        ("accuracy", sk.accuracy_score(truth, called)),
    ):
        assert result[ours] == pytest.approx(theirs)
        if f"{ours}_interval" in result:
            assert result[f"{ours}_interval"][0] < theirs < result[f"{ours}_interval"][1]


def test_photographs_are_those_of_scikit_learn():
    found = evaluate_segmentation(ITEMS, threshold=0.4, n=100)["image_level"]
    shown, highest = np.array([item[2].any() for item in ITEMS]), np.array([quantize(item[1]).max() for item in ITEMS])
    called = highest >= quantize(0.4)
    assert (found["images"], found["positive"]) == (8, 6)
    assert found["auc"] == pytest.approx(sk.roc_auc_score(shown, highest))
    assert found["sensitivity"] == pytest.approx(sk.recall_score(shown, called)) and found[
        "specificity"
    ] == pytest.approx(sk.recall_score(~shown, ~called))


def test_lesions_are_counted_within_the_field():
    result = evaluate_segmentation(ITEMS, threshold=0.4, within_field=True, n=0)["lesion_level"]
    assert result["lesions"] == sum(label(item[2] & item[3], np.ones((3, 3)))[1] for item in ITEMS)
    whole = sum(score_lesions(*item[1:]) for item in ITEMS)
    assert (
        result["found"] == (whole.lesions >= quantize(0.4)).sum()
        and result["false_alarms"] == (whole.false_alarms >= quantize(0.4)).sum()
    )
    assert result["f1"] == pytest.approx(2 / (1 / result["precision"] + 1 / result["sensitivity"])) and result[
        "sensitivity_interval"
    ] == [None, None]
    assert result["false_alarms_per_image"] == result["false_alarms"] / 8


def test_result_is_plain_json_and_the_same_again():
    result = evaluate_segmentation(ITEMS, n=30)
    assert json.loads(json.dumps(result, allow_nan=False)) == result == evaluate_segmentation(iter(ITEMS), n=30)
    assert len(json.dumps(result)) < 60_000


@pytest.mark.slow
@few_examples
@given(st.permutations(range(8)))
def test_order_of_photographs_does_not_matter(order):
    before, after = (
        plain(evaluate_segmentation([ITEMS[i] for i in some], threshold=0.4, n=0)) for some in (range(8), order)
    )
    assert before.keys() == after.keys()
    for key in before:
        assert after[key] == pytest.approx(before[key])


@pytest.mark.slow
@few_examples
@given(st.integers(0, 2**32), st.integers(2, 15))
def test_monotone_transform_leaves_what_does_not_depend_on_values(seed, step):
    new = np.cumsum(np.random.default_rng(seed).integers(1, step + 1, 4096))
    items = [(name, quantize(map) // 16, mask) for name, map, mask, _ in ITEMS]
    transformed = [(name, new[map].astype("uint16"), mask) for name, map, mask in items]
    floor = 1000
    before = evaluate_segmentation(items, threshold=2000 / TOP, n=0, floor=floor / TOP)
    after = evaluate_segmentation(transformed, threshold=float(new[2000]) / TOP, n=0, floor=float(new[floor]) / TOP)
    for figure in ("aupr", "auc", "dice", "specificity"):
        assert after[figure] == pytest.approx(before[figure])
    for part, figure in (
        ("lesion_level", "f1"),
        ("lesion_level", "froc_score"),
        ("image_level", "auc"),
        ("image_level", "sensitivity"),
    ):
        assert after[part][figure] == pytest.approx(before[part][figure])


@few_examples
@given(st.integers(0, 8), st.booleans())
def test_parts_of_two_machines_join(cut, within_field):
    whole, parts = (
        collect(ITEMS, 0.4, within_field),
        [collect(some, 0.4, within_field) for some in (ITEMS[:cut], ITEMS[cut:])],
    )
    pooled = sum(part.pooled for part in parts if part.pooled is not None)
    assert (pooled.counts == whole.pooled.counts).all()
    lesions = {name: one for part in parts for name, one in part.lesions.items()}
    assert plain(lesion_level(lesions, 0.4, n=20)) == pytest.approx(
        plain(lesion_level(whole.lesions, 0.4, n=20)), nan_ok=True
    )


@few_examples
@given(arrays.arrays(np.float32, 12, elements=st.floats(0, 1, width=32)), arrays.arrays(bool, 12), st.floats(0, 1))
def test_images_by_any_score(scores, labels, threshold):
    found = image_level(dict(enumerate(labels.tolist())), dict(enumerate(scores.tolist())), threshold, n=20)
    plain_figures = evaluate_classifier(labels, scores, threshold, n=20)
    for ours, theirs in (
        ("auc", "auc"),
        ("sensitivity", "recall"),
        ("specificity", "specificity"),
        ("accuracy", "accuracy"),
    ):
        assert found[ours] == pytest.approx(
            np.nan if plain_figures[theirs] is None else plain_figures[theirs], nan_ok=True
        )
    for name in ("auc", "sensitivity", "specificity"):
        low, high = found[f"{name}_interval"]
        assert np.isnan(low) or low <= found[name] <= high


def test_interval_of_a_classifier_is_that_of_delong():
    rng = np.random.default_rng(0)
    labels = rng.random(400) < 0.4
    scores = 1 / (1 + np.exp(-rng.normal(labels, 1)))
    found = evaluate_classifier(labels, scores, n=2000)
    beats = (scores[labels][:, None] > scores[~labels]).astype(float)
    error = np.sqrt(
        beats.mean(1).var(ddof=1) / labels.sum() + beats.mean(0).var(ddof=1) / (~labels).sum()
    )  # DeLong et al. 1988
    low, high = found["auc_interval"]
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_healthy_photographs_only():
    result = evaluate_segmentation([item for item in ITEMS if not item[2].any()], threshold=0.2)
    assert (
        result["aupr"] is None
        and result["lesion_level"]["sensitivity"] is None
        and result["lesion_level"]["froc_score"] is None
    )
    assert result["image_level"]["auc"] is None and result["image_level"]["specificity"] == 0
    assert result["lesion_level"]["precision"] == 0 and result["lesion_level"]["f1"] == 0
    for plot in (plot_precision_recall, plot_roc, plot_froc, plot_reliability):
        plot(result).canvas.draw()


def test_memory_does_not_grow_with_photographs():
    "Three times as many photographs add their coarse histograms, 63 kB each, and nothing else."

    def peak(count):
        tracemalloc.start()
        try:
            collect(photographs(count, side=256))
        finally:
            found = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return found

    peak(2)
    assert peak(24) - peak(8) < 16 * 100e3


def test_a_whole_photograph_in_memory():
    "4288 x 2848, pixels and lesions, adds less than 100 MB to the map and the mask."
    probability, mask = np.zeros((2848, 4288), np.float32), np.zeros((2848, 4288), bool)
    field = ~mask
    probability[100:2000:50, 200:4000] = 0.6
    mask[100:2000:100, 300:3000] = True
    tracemalloc.start()
    try:
        found = collect([("one", probability, mask, field)], 0.5, within_field=True)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert len(found.lesions["one"].hits) == 19 and len(found.lesions["one"].false_alarms) == 19
    assert peak < 100e6


# Pictures
RESULT = evaluate_segmentation(ITEMS, threshold=0.4, n=30)


@pytest.mark.parametrize(
    "plot, words",
    [(plot_precision_recall, "AUPR"), (plot_roc, "AUC"), (plot_froc, "FROC score"), (plot_reliability, "error")],
)
def test_pictures_say_what_they_show(plot, words):
    for shown in (RESULT, {"one": RESULT, "two": RESULT}):
        figure = plot(shown)
        figure.canvas.draw()
        (axes,) = figure.axes
        said = [text.get_text() for text in axes.get_legend().get_texts()]
        assert len(said) == (1 if shown is RESULT else 2) and all(words in text for text in said)
        assert axes.get_title(loc="right") == "all pixels" and axes.get_xlabel() and axes.get_ylabel()
        bands = len(axes.collections)
        assert bands == (len(said) if plot in (plot_precision_recall, plot_roc) else 0)


def test_bands_hold_the_curve():
    low, high, curve = (np.array(RESULT["roc"][key]) for key in ("low", "high", "sensitivity"))
    assert len(low) == len(curve) and (low <= curve + 1e-9).mean() > 0.95 and (curve <= high + 1e-9).mean() > 0.95
    assert len(RESULT["band"]["low"]) == len(RESULT["band"]["sensitivity"])
    assert plot_roc(evaluate_segmentation(ITEMS, 0.4, n=0)).axes[0].collections[:] == []  # no drawings, no band


def test_contact_sheet_shows_best_median_and_worst():
    items = [(name, np.full((*mask.shape, 3), 90, "uint8"), map, mask) for name, map, mask, _ in ITEMS]
    sheet = contact_sheet(iter(items), RESULT)
    sheet.canvas.draw()
    ranked = rank_images(RESULT)
    titles = [axes.get_title(loc="left") for axes in sheet.axes if axes.get_title(loc="left")]
    assert titles[::2] == [f"{kind}: {name}" for kind, names in ranked.items() for name in names]
    assert len([axes for axes in sheet.axes if axes.images]) == 12
    values = {one["name"]: one["aupr"] for one in RESULT["per_image"]}
    highest = [values[name] for names in ranked.values() for name in names]
    assert highest == sorted(highest, reverse=True) and len(highest) == 6  # the two healthy ones are not ranked
    with pytest.raises(RetinalError, match="was not among the items"):
        contact_sheet(items[:1], RESULT)


@pytest.mark.parametrize(
    "figure",
    [
        plot_example(np.zeros((60, 60, 3), "uint8"), ITEMS[0][1], ITEMS[0][2], 0.4),
        contact_sheet([(name, np.zeros((60, 60, 3), "uint8"), map, mask) for name, map, mask, _ in ITEMS], RESULT),
    ],
)
def test_legends_have_the_papers_colors(figure):
    handles = {
        text.get_text(): to_rgb(handle.get_facecolor())
        for text, handle in zip(figure.legends[0].get_texts(), figure.legends[0].legend_handles)
    }
    assert handles == {name.replace("_", " "): tuple(np.array(color) / 255) for name, color in OUTCOME_COLORS.items()}
