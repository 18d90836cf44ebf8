"""Lesions against MONAI, against a slow and plain implementation, and properties that hold for any map."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from monai_froc import FLOOR, RATES, TOP, photographs
from retinal_tl.core import RetinalError
from retinal_tl.lesions import LesionScores, froc_curve, froc_score, froc_sensitivities, lesion_counts, score_lesions

few_examples = settings(max_examples=50, deadline=None)

# Printed by tests/monai_froc.py with MONAI 1.6.1, PyTorch 2.13.0 (CPU), scikit-image 0.26.0, NumPy 2.4.6
# fmt: off
MONAI = {
    "some missed": dict(
        false_alarms=[
            40857, 41382, 44023, 44560, 45189, 45617, 48773, 48800, 49320, 50100, 54156, 54297, 56500,
            59364, 60628, 62301,
        ],
        lesions=[
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 43258, 43388, 43677, 44897,
            45921, 46416, 49775, 49788, 51762, 52050, 53178, 54608, 57228, 58427, 60105, 61396, 62332,
            63110, 63523,
        ],
        curve_false_alarms=[
            16, 15, 14, 14, 14, 14, 13, 12, 12, 11, 10, 10, 10, 9, 8, 7, 7, 7, 6, 6, 6, 6, 5, 4, 4, 3,
            3, 3, 2, 2, 1, 1, 0, 0, 0, 0,
        ],
        curve_found=[
            19, 19, 19, 18, 17, 16, 16, 16, 15, 15, 15, 14, 13, 13, 13, 13, 12, 11, 11, 10, 9, 8, 8, 8,
            7, 7, 6, 5, 5, 4, 4, 3, 3, 2, 1, 0,
        ],
        score=0.3107142857142858,
        sensitivities=[
            0.1, 0.125, 0.2, 0.325, 0.475, 0.475, 0.475,
        ],
    ),
    "none missed": dict(
        false_alarms=[
            41803, 42854, 44064, 44694, 47719, 48217, 48657, 48761, 51671, 51959, 52606, 52796, 55235,
            57678, 58223, 58735, 59923, 60652, 63191, 64528, 64586, 64939,
        ],
        lesions=[
            40868, 41404, 42458, 43016, 44238, 46643, 47238, 47353, 47755, 48091, 48091, 48813, 49188,
            51227, 51487, 51537, 51589, 52179, 52562, 54473, 54964, 55963, 55987, 56099, 58016, 60765,
            61045, 62001, 62162, 62395, 63540, 63621, 64870, 65036, 65141,
        ],
        curve_false_alarms=[
            22, 22, 21, 21, 20, 20, 19, 19, 18, 18, 18, 18, 17, 17, 17, 16, 15, 14, 14, 14, 14, 14, 14,
            14, 13, 12, 12, 12, 11, 10, 10, 10, 9, 9, 9, 9, 8, 8, 7, 6, 5, 4, 4, 4, 4, 4, 4, 3, 3, 3, 2,
            1, 1, 0, 0, 0,
        ],
        curve_found=[
            34, 33, 33, 32, 32, 31, 31, 30, 30, 29, 28, 27, 27, 26, 24, 24, 24, 24, 23, 22, 21, 20, 19,
            18, 18, 18, 17, 16, 16, 16, 15, 14, 14, 13, 12, 11, 11, 10, 10, 10, 10, 10, 9, 8, 7, 6, 5,
            5, 4, 3, 3, 3, 2, 2, 1, 0,
        ],
        score=0.4857142857142857,
        sensitivities=[
            0.08571428571428572, 0.08571428571428572, 0.2857142857142857, 0.3142857142857143,
            0.6857142857142857, 0.9714285714285714, 0.9714285714285714,
        ],
    ),
}
# fmt: on

CASES = {"some missed": photographs(1, 0.6), "none missed": photographs(2, 1.0)}
each_case = pytest.mark.parametrize("name", CASES)


def total(made, floor=FLOOR / TOP):
    "The scores of photographs, joined."
    return sum(score_lesions(levels, mask, floor=floor) for levels, mask in made)


@each_case
def test_matches_are_monais(name):
    scores, monai = total(CASES[name]), MONAI[name]
    assert sorted(scores.false_alarms) == monai["false_alarms"]
    assert sorted(scores.lesions) == monai["lesions"]
    if name == "none missed":
        assert 0 < len(scores.hits) < len(scores.lesions)  # a candidate matches several lesions


@each_case
def test_curve_and_score_are_monais(name):
    scores, monai = total(CASES[name]), MONAI[name]
    curve = froc_curve(scores)
    ours = [
        (round(alarms * scores.images), round(found * len(scores.lesions)))
        for alarms, found in zip(curve["false_alarms"][::-1], curve["sensitivity"][::-1])
    ] + [(0, 0)]
    sensitivities = froc_sensitivities(scores, RATES)
    if name == "none missed":  # MONAI takes the lowest level for the 0 of a missed lesion and leaves it out
        assert ours.pop(0) == (len(scores.false_alarms), len(scores.lesions)) and min(monai["lesions"]) > 0
        assert (sensitivities[-2:] == 1).all()
        sensitivities = np.interp(RATES, *(np.append(0, curve[key][:-1]) for key in ("false_alarms", "sensitivity")))
    else:
        assert min(monai["lesions"]) == 0
        assert froc_score(scores) == pytest.approx(monai["score"], abs=1e-12)
    assert ours == list(zip(monai["curve_false_alarms"], monai["curve_found"]))
    assert sensitivities == pytest.approx(monai["sensitivities"], abs=1e-12)
    assert sensitivities.mean() == pytest.approx(monai["score"], abs=1e-12)


# A slow and plain implementation: regions by walking from pixel to pixel, matches by comparing sets
def regions(where):
    "Sets of (row, column), neighbors at sides and corners."
    left, found = set(zip(*np.nonzero(where))), []
    while left:
        region, waiting = set(), [left.pop()]
        while waiting:
            row, column = waiting.pop()
            region.add((row, column))
            near = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            waiting += near
        found.append(region)
    return found


def slow_scores(levels, mask, floor):
    "Levels of lesions, hits and false alarms, sorted."
    candidates, lesions = regions(levels >= floor), regions(mask)
    level = lambda candidate: max(int(levels[pixel]) for pixel in candidate)
    return (
        sorted(max([level(one) for one in candidates if one & lesion], default=0) for lesion in lesions),
        sorted(level(one) for one in candidates if any(one & lesion for lesion in lesions)),
        sorted(level(one) for one in candidates if not any(one & lesion for lesion in lesions)),
    )


def same(scores, slow):
    "Whether scores are those of the slow implementation."
    return tuple(sorted(map(int, part)) for part in (scores.lesions, scores.hits, scores.false_alarms)) == slow


@each_case
@pytest.mark.parametrize("floor", [1, FLOOR, 30000, TOP])
def test_matches_are_those_of_the_slow_way(name, floor):
    for levels, mask in CASES[name]:
        assert same(score_lesions(levels, mask, floor=floor / TOP), slow_scores(levels, mask, floor))


@each_case
def test_curve_is_that_of_the_slow_way(name):
    slow = [slow_scores(levels, mask, FLOOR) for levels, mask in CASES[name]]
    lesions, alarms = [[level for one in slow for level in one[i]] for i in (0, 2)]
    points = [(0, 0)]
    for threshold in sorted({*lesions, *alarms} - {0}, reverse=True):
        points.append(
            (
                sum(one >= threshold for one in alarms) / len(slow),
                sum(one >= threshold for one in lesions) / len(lesions),
            )
        )

    def sensitivity(rate):
        before = max(i for i, point in enumerate(points) if point[0] <= rate)
        (x0, y0), (x1, y1) = points[before], points[min(before + 1, len(points) - 1)]
        return y0 if x0 == x1 else y0 + (y1 - y0) * (rate - x0) / (x1 - x0)

    assert froc_sensitivities(total(CASES[name]), RATES) == pytest.approx([sensitivity(rate) for rate in RATES])


# Properties of any photograph
maps = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: st.tuples(
        arrays.arrays(np.uint16, shape, elements=st.sampled_from([0, 0, 5, 7000, 20000, 50000, TOP])),
        arrays.arrays(bool, shape),
    )
)


@few_examples
@given(maps, st.sampled_from([1, 6, 7000, 30000]))
def test_any_map_is_scored_as_the_slow_way_does(one, floor):
    assert same(score_lesions(*one, floor=floor / TOP), slow_scores(*one, floor))


@few_examples
@given(st.lists(maps, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_order_and_grouping_of_photographs_do_not_matter(made, random):
    scores, order = total(made), random.sample(range(len(made)), len(made))
    parts = [total([made[i]]) for i in order]
    cut = random.randrange(len(parts)) + 1
    for joined in (sum(parts), sum([sum(parts[:cut]), *parts[cut:]])):
        for threshold in (FLOOR / TOP, 0.5, 1):
            assert lesion_counts(joined, threshold) == lesion_counts(scores, threshold)
        assert froc_sensitivities(joined) == pytest.approx(froc_sensitivities(scores), nan_ok=True)


@few_examples
@given(st.lists(maps, min_size=1, max_size=4), st.lists(st.integers(1, 9000), min_size=7, max_size=7))
def test_monotone_transform_leaves_the_curve(made, steps):
    new, used = np.cumsum(steps), np.array([0, 5, 7000, 20000, 50000, TOP])
    transformed = [(new[np.searchsorted(used, levels)].astype(np.uint16), mask) for levels, mask in made]
    before, after = total(made, 7000 / TOP), total(transformed, float(new[2]) / TOP)
    for key in ("false_alarms", "sensitivity"):
        assert (froc_curve(before)[key] == froc_curve(after)[key]).all()


@few_examples
@given(maps)
def test_lower_thresholds_find_more_and_call_more(one):
    scores = total([one], 1 / TOP)
    counts = [lesion_counts(scores, level / TOP) for level in (TOP, 50000, 20000, 7000, 5, 1)]
    for less, more in zip(counts, counts[1:]):
        assert less.found <= more.found and less.false_alarms <= more.false_alarms
    for at in counts:
        assert at.found <= at.lesions and at.hits <= at.candidates and (at.hits > 0) == (at.found > 0)
        if at.hits:
            assert at.f1 == pytest.approx(2 * at.precision * at.sensitivity / (at.precision + at.sensitivity))


@few_examples
@given(maps)
def test_a_perfect_map_finds_all_and_nothing_else(one):
    mask = one[1]
    scores = score_lesions(mask, mask)
    assert len(scores.false_alarms) == 0 and (scores.lesions == TOP).all() and len(scores.hits) == len(scores.lesions)
    assert froc_score(scores) == (1 if mask.any() else pytest.approx(np.nan, nan_ok=True))


def test_field_is_the_same_as_cutting():
    levels, mask = CASES["some missed"][0]
    field = np.zeros(mask.shape, bool)
    field[5:50, 10:40] = True
    assert same(score_lesions(levels, mask, field), slow_scores(levels[5:50, 10:40], mask[5:50, 10:40], FLOOR))


def test_many_candidates_are_not_confused():
    "More candidates than 16 bits can number, on a map of many strips."
    levels = np.zeros((1001, 601), np.uint16)
    levels[::2, ::2] = 10000 + np.arange(501 * 301).reshape(501, 301) % 50000
    mask = np.zeros(levels.shape, bool)
    mask[1000, 600] = mask[0, 0] = mask[500, 301] = True
    scores = score_lesions(levels, mask)
    assert len(scores.false_alarms) == 501 * 301 - 2 and sorted(scores.lesions) == [0, 10000, levels[1000, 600]]
    assert np.sort(scores.false_alarms).sum() == levels.sum(dtype=np.int64) - int(levels[0, 0]) - int(levels[1000, 600])


@pytest.mark.parametrize("probability", [np.full((4, 4), 2.0), np.full((4, 4), np.nan), np.full((4, 4), 3, "uint8")])
def test_values_that_are_no_probabilities(probability):
    with pytest.raises(RetinalError):
        score_lesions(probability, np.zeros((4, 4), bool))


def test_other_floor_other_scores():
    made = CASES["some missed"]
    with pytest.raises(RetinalError, match="do not add"):
        total(made, 0.2) + total(made, 0.3)
    with pytest.raises(RetinalError, match="below"):
        lesion_counts(total(made, 0.2), 0.1)
    nothing = LesionScores(3, *[np.zeros(0, np.uint16)] * 3, 0.1)
    assert np.isnan(froc_sensitivities(nothing)).all() and np.isnan(lesion_counts(nothing, 0.5).f1)


def test_a_whole_photograph_in_memory():
    "4288 x 2848 with thousands of candidates adds less than 100 MB; tracemalloc sees OpenCV's labels, too."
    import tracemalloc

    import cv2

    rng = np.random.default_rng(0)
    seeds = np.zeros((2848, 4288), np.float32)
    seeds[rng.integers(0, 2848, 5000), rng.integers(0, 4288, 5000)] = rng.random(5000)
    probability = cv2.dilate(seeds, np.ones((5, 5)))
    mask = np.roll(probability, 3, 0) > 0.5
    tracemalloc.start()
    try:
        scores = score_lesions(probability, mask)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert len(scores.hits) > 500 and len(scores.false_alarms) > 500
    assert peak < 100e6
