"""A whole evaluation: as scikit-learn has it, in any order, from one look at each map, in memory that does not grow."""

import json
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.ndimage import label
from sklearn import metrics as sk

from retinal_tl import evaluation
from retinal_tl.core import RetinalError
from retinal_tl.evaluation import (
    collect,
    evaluate,
    evaluate_classifier,
    evaluate_segmentation,
    image_level,
    lesion_level,
    rank_images,
    read_histograms,
    write_histograms,
)
from retinal_tl.lesions import score_lesions
from retinal_tl.metrics import BINS, confusion, pixel_histogram, quantize

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
    marked = level >= quantize(0.4)
    assert result["scope"] == ("field of view" if within_field else "all pixels") and result["pixels"] == len(level)
    for ours, theirs in (
        ("aupr", sk.average_precision_score(truth, level)),
        ("auc", sk.roc_auc_score(truth, level)),
        ("dice", sk.f1_score(truth, marked)),
        ("sensitivity", sk.recall_score(truth, marked)),
        ("precision", sk.precision_score(truth, marked)),
        ("specificity", sk.recall_score(~truth, ~marked)),
        ("accuracy", sk.accuracy_score(truth, marked)),
    ):
        assert result[ours] == pytest.approx(theirs)
        if f"{ours}_interval" in result:
            assert result[f"{ours}_interval"][0] < theirs < result[f"{ours}_interval"][1]


def test_photographs_are_those_of_scikit_learn():
    found = evaluate_segmentation(ITEMS, threshold=0.4, n=100)["image_level"]
    shown, highest = np.array([item[2].any() for item in ITEMS]), np.array([quantize(item[1]).max() for item in ITEMS])
    over = highest >= quantize(0.4)
    assert (found["images"], found["positive"]) == (8, 6)
    assert found["auc"] == pytest.approx(sk.roc_auc_score(shown, highest))
    assert found["sensitivity"] == pytest.approx(sk.recall_score(shown, over))
    assert found["specificity"] == pytest.approx(sk.recall_score(~shown, ~over))


def test_lesions_are_counted_within_the_field():
    result = evaluate_segmentation(ITEMS, threshold=0.4, within_field=True, n=0)["lesion_level"]
    assert result["lesions"] == sum(label(item[2] & item[3], np.ones((3, 3)))[1] for item in ITEMS)
    whole = sum(score_lesions(*item[1:]) for item in ITEMS)
    assert result["found"] == (whole.lesions >= quantize(0.4)).sum()
    assert result["false_alarms"] == (whole.false_alarms >= quantize(0.4)).sum()
    assert result["f1"] == pytest.approx(2 / (1 / result["precision"] + 1 / result["sensitivity"]))
    assert result["sensitivity_interval"] == [None, None]
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
    before, after = (
        evaluate(collect(some, [float(at) / TOP], floor=float(low) / TOP), float(at) / TOP, n=0)
        for some, at, low in ((items, 2000, floor), (transformed, new[2000], new[floor]))
    )
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
    whole = collect(ITEMS, [0.4], within_field)
    parts = [collect(some, [0.4], within_field) for some in (ITEMS[:cut], ITEMS[cut:])]
    assert (sum(part.pooled for part in parts).counts == whole.pooled.counts).all()
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


def test_each_map_is_looked_at_once(monkeypatch, tmp_path):
    "Figures, the file of histograms and the ranking all come from one count of each photograph; the maps may be gone."
    counted = []
    count = lambda probability, *more: counted.append(np.size(probability)) or pixel_histogram(probability, *more)
    monkeypatch.setattr(evaluation, "pixel_histogram", count)
    collected = collect(iter(ITEMS), [0.4])
    monkeypatch.setattr(evaluation, "score_lesions", None)
    result = evaluate(collected, 0.4, n=30)
    write_histograms(tmp_path / "histograms.npz", collected)
    assert sum(map(bool, counted)) == len(ITEMS) and len(rank_images(result)["best"]) == 2
    monkeypatch.undo()
    assert result == evaluate_segmentation(ITEMS, 0.4, n=30)
    for key in ("aupr_interval", "dice_interval"):
        assert result[key] == evaluate(collected, 0.4, n=30)[key]


def test_histograms_come_back_from_their_file(tmp_path):
    "As written: names, order, counts and levels. A missing or damaged file is named in a sentence."
    collected = collect([(f"csv:patient{i}/left, ü.png", *item[1:]) for i, item in enumerate(ITEMS)])
    file = tmp_path / "a folder" / "exudates_histograms.npz"
    write_histograms(file, collected)
    again = read_histograms(file)
    assert list(again) == list(collected.histograms)
    for name, one in again.items():
        assert (one.counts == collected.histograms[name].counts).all()
        assert (one.levels == collected.histograms[name].levels).all()
    whole = file.read_bytes()
    for damaged in (b"", b"no", whole[:-30], whole[:100], whole[: len(whole) // 2] + b"\0" * (len(whole) // 2)):
        file.write_bytes(damaged)
        with pytest.raises(RetinalError, match=r"exudates_histograms\.npz"):
            read_histograms(file)
    with pytest.raises(RetinalError, match="no file"):
        read_histograms(tmp_path / "histograms.npz")
    with pytest.raises(RetinalError, match="no photograph"):
        write_histograms(file, collect([]))
    np.savez(file, names=np.array([{}]), counts=np.zeros((1, 2, 1), int), levels=np.zeros(1, int))  # needs pickle
    with pytest.raises(RetinalError, match="cannot be read"):
        read_histograms(file)


def test_a_threshold_between_levels_is_refused():
    "Counts of single photographs are coarse: a threshold that was not named beforehand would give others."
    threshold = 0.31234
    with pytest.raises(RetinalError, match=r"thresholds=\[0.31234\]"):
        evaluate(collect(ITEMS), threshold, n=0)
    named = evaluate(collect(ITEMS, [0.2, threshold]), threshold, n=0)
    for one, item in zip(named["per_image"], ITEMS):
        exact = confusion(pixel_histogram(item[1], item[2]), threshold).dice
        assert one["dice"] == (None if np.isnan(exact) else exact)


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
        found = collect([("one", probability, mask, field)], [0.5], within_field=True)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert len(found.lesions["one"].hits) == 19 and len(found.lesions["one"].false_alarms) == 19
    assert peak < 100e6


def test_an_entry_that_is_no_array_is_damage(tmp_path):
    """Found by fuzzing: NumPy gives the bytes of an entry that does not begin like an array."""
    with zipfile.ZipFile(tmp_path / "histograms.npz", "w") as archive:
        for name in ("names", "counts", "levels"):
            archive.writestr(f"{name}.npy", b"no array")
    with pytest.raises(RetinalError, match="cannot be read as histograms"):
        read_histograms(tmp_path / "histograms.npz")
