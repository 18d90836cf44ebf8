"""Intervals and tests on data whose truth is known, against SciPy, scikit-learn and a slow and plain implementation."""

import ast
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats
from scipy.special import ndtr

from retinal_tl.core import RetinalError
from retinal_tl.lesions import LesionScores, lesion_counts
from retinal_tl.metrics import BINS, PixelHistogram, average_precision, confusion, roc_auc
from retinal_tl.uncertainty import (
    FIGURES,
    bootstrap_band,
    bootstrap_interval,
    draw_weights,
    interval,
    join_groups,
    paired_difference,
)

REPOSITORY = Path(__file__).resolve().parent.parent
TOP = BINS - 1
few_examples = settings(max_examples=30, deadline=None)
EDGES = np.linspace(-3, 7, 95)
LEVELS = np.linspace(0, TOP, 96).astype(int)


def shares(center, spread=1.0):
    "The share of pixels in each of 96 levels, for scores from a normal law: (..., 96)."
    below = ndtr((EDGES - np.asarray(center)[..., None]) / spread)
    return np.diff(below, axis=-1, prepend=0, append=1)


def simulate(n, rng, models=1, area_spread=1.0):
    "Histograms of n photographs, of models that are equally good but not the same; lesions differ between photographs."
    lesion = 1 + rng.poisson(200 * rng.lognormal(-(area_spread**2) / 2, area_spread, n))
    shift, stands_out = rng.normal(0, 0.3, n), rng.normal(3, 0.8, n)
    made = []
    for _ in range(models):
        own = rng.normal(0, 0.3, n) if models > 1 else 0
        counts = np.stack(
            [rng.multinomial(20000, shares(shift)), rng.multinomial(lesion, shares(shift + stands_out + own))], axis=1
        )
        made.append({i: PixelHistogram(one, LEVELS) for i, one in enumerate(counts)})
    return made


@pytest.mark.slow
@pytest.mark.parametrize("area_spread", [1.0, 1.4])
def test_intervals_hold_the_true_aupr(area_spread):
    "27 photographs with lesion areas as on IDRiD: 93 to 97 % of 800 intervals of 95 % hold the AUPR of endlessly many."
    true = average_precision(
        PixelHistogram(
            np.stack([20000 * shares(0, math.hypot(1, 0.3)), 201 * shares(3, math.sqrt(1 + 0.3**2 + 0.8**2))]), LEVELS
        )
    )
    rng = np.random.default_rng(0)
    ends = np.array([interval(*simulate(27, rng, area_spread=area_spread), n=400) for _ in range(800)])
    assert 0.93 <= ((ends[:, 0] <= true) & (true <= ends[:, 1])).mean() <= 0.97
    assert 0.1 < np.median(ends[:, 1] - ends[:, 0]) < 0.5  # and not because they hold everything


@pytest.mark.slow
def test_equal_models_seldom_differ():
    "Where two models are equally good, p is below 0.05 in about 5 % of the cases, and in the others zero is inside."
    rng = np.random.default_rng(0)
    found = [paired_difference(*simulate(27, rng, models=2), n=300) for _ in range(400)]
    assert 0.02 <= np.mean([one.p < 0.05 for one in found]) <= 0.08
    assert np.mean([(one.p < 0.05) == (one.low > 0 or one.high < 0) for one in found]) > 0.98


def plain_interval(units, metric, n, seed):
    "The same interval written out: slopes from small changes of weight, one drawing after the other."
    count = len(units)
    pool = lambda weights: PixelHistogram(
        sum(weight * unit.counts for weight, unit in zip(weights, units)), units[0].levels
    )

    def value_and_error(weights):
        value, step = metric(pool(weights)), 1e-5
        slopes = [
            (metric(pool(weights + step * one)) - metric(pool(weights - step * one))) / (2 * step)
            for one in np.eye(count)
        ]
        error = math.sqrt(sum(weight * slope**2 for weight, slope in zip(weights, slopes)) * count / (count - 1))
        return math.log(value / (1 - value)), error / (value * (1 - value))

    center, error = value_and_error(np.ones(count))
    influences = np.array(
        [
            (metric(pool(np.ones(count) + 1e-5 * one)) - metric(pool(np.ones(count) - 1e-5 * one))) / 2e-5
            for one in np.eye(count)
        ]
    )
    ruler = math.sqrt(1 + sum(influences**4) / sum(influences**2) ** 2 - 1 / count)
    distances = []
    for weights in np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=n).astype(float):
        value, own = value_and_error(weights)
        if np.count_nonzero(weights) > 1:
            distances.append(abs(value - center) / own)
    reach = np.quantile(distances, 0.95) * error * ruler
    return tuple(1 / (1 + math.exp(-end)) for end in (center - reach, center + reach))


def plain_dice(histogram):
    "Dice at 0.6, with counts that need not be whole."
    called = histogram.levels >= round(0.6 * TOP)
    fp, tp = histogram.counts[:, called].sum(axis=1)
    return 2 * tp / (tp + fp + histogram.counts[1].sum())


def plain_aupr(histogram):
    "Area under the precision-recall curve, with counts that need not be whole."
    above = histogram.counts[:, ::-1].cumsum(axis=1)[:, ::-1]
    called = above.sum(axis=0)
    return (
        histogram.counts[1] * np.divide(above[1], called, out=np.zeros_like(called), where=called > 0)
    ).sum() / above[1, 0]


@pytest.mark.parametrize("figure, metric", [("aupr", plain_aupr), ("dice", plain_dice)])
def test_interval_as_written_out(figure, metric):
    (photographs,) = simulate(8, np.random.default_rng(3))
    ours = interval(photographs, figure, 0.6, n=30, seed=5)
    assert ours == pytest.approx(plain_interval(list(photographs.values()), metric, 30, 5), abs=1e-5)


def test_error_of_a_share_is_the_usual_one():
    "A specificity of photographs of equal size is a mean: the interval is that of Student, nearly."
    rng = np.random.default_rng(0)
    wrong = rng.binomial(1000, rng.beta(20, 80, 200))
    photographs = {
        i: PixelHistogram(np.array([[1000 - one, one], [0, 0]]), np.array([0, 40000])) for i, one in enumerate(wrong)
    }
    mean, error = 1 - wrong.mean() / 1000, wrong.std(ddof=1) / 1000 / math.sqrt(200)
    low, high = interval(photographs, "specificity", 0.5, n=4000)
    assert high - low == pytest.approx(2 * stats.t.ppf(0.975, 199) * error, rel=0.05) and low < mean < high


def test_permutations_of_scipy_say_the_same():
    "Exchanging two models at random on each photograph (SciPy) gives about the same p."
    rng = np.random.default_rng(1)
    for _ in range(3):
        models = simulate(20, rng, models=2)
        counts = np.stack([[one.counts for one in model.values()] for model in models])

        def difference(first, second):
            pooled = [counts[whose.astype(int), np.arange(20)].sum(axis=0) for whose in (first, second)]
            return np.subtract(*(average_precision(PixelHistogram(one, LEVELS)) for one in pooled))

        asked = stats.permutation_test(
            (np.zeros(20), np.ones(20)),
            difference,
            permutation_type="samples",
            n_resamples=999,
            vectorized=False,
            random_state=0,
        )
        found = paired_difference(*models, n=2000)
        assert found.difference == pytest.approx(asked.statistic) and found.p == pytest.approx(asked.pvalue, abs=0.08)


def test_clearly_better_is_significant():
    rng = np.random.default_rng(2)
    (worse,) = simulate(27, rng)
    better = {
        i: PixelHistogram(np.stack([one.counts[0], np.roll(one.counts[1], 8)]), LEVELS) for i, one in worse.items()
    }
    found = paired_difference(better, worse)
    assert found.p < 0.01 and 0 < found.low < found.difference < found.high
    assert found.difference == pytest.approx(
        average_precision(sum(better.values())) - average_precision(sum(worse.values()))
    )


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_has_an_interval_around_itself(figure):
    rng = np.random.default_rng(0)
    lesion = figure.startswith("lesion")
    if lesion:
        level = lambda n: rng.integers(0, BINS, n).astype(np.uint16)
        photographs = {i: LesionScores(1, level(8), level(6), level(5), 0.1) for i in range(20)}
        value = getattr(lesion_counts(sum(photographs.values()), 0.5), figure.removeprefix("lesion_"))
    else:
        (photographs,) = simulate(20, rng)
        pooled = sum(photographs.values())
        value = dict(aupr=average_precision, auc=roc_auc).get(figure, lambda one: getattr(confusion(one, 0.5), figure))(
            pooled
        )
    low, high = interval(photographs, figure, 0.5)
    assert 0 < low < value < high < 1
    same = paired_difference(photographs, photographs, figure, 0.5)
    assert (same.first, same.difference, same.p) == (pytest.approx(value), 0, 1)


# Properties of any histograms
counts = st.integers(2, 6).flatmap(lambda n: arrays.arrays(np.int64, (n, 2, 7), elements=st.integers(0, 30)))
seven = np.array([0, 10, 300, 5000, 30000, 60000, TOP])


def named(made, levels=seven):
    "Histograms by number."
    return {i: PixelHistogram(one, levels) for i, one in enumerate(made)}


@few_examples
@given(counts, st.lists(st.integers(1, 9000), min_size=7, max_size=7))
def test_monotone_transform_leaves_interval_and_test(made, steps):
    new = np.cumsum(steps)
    for figure in ("aupr", "auc"):
        assert interval(named(made), figure, n=50) == pytest.approx(
            interval(named(made, new), figure, n=50), nan_ok=True
        )
    other = made[:, :, ::-1]
    before, after = (
        paired_difference(named(made), named(other), n=50),
        paired_difference(named(made, new), named(other, new), n=50),
    )
    assert vars(before) == pytest.approx(vars(after), nan_ok=True)


@few_examples
@given(counts, st.integers(2, 5))
def test_more_pixels_of_the_same_kind_change_nothing(made, times):
    assert interval(named(made), n=50) == pytest.approx(interval(named(made * times), n=50), nan_ok=True, abs=1e-6)


@few_examples
@given(counts, st.randoms(use_true_random=False))
def test_groups_are_drawn_as_one(made, random):
    groups = {i: random.choice("abc") for i in range(len(made))}
    joined = join_groups(named(made), groups)
    assert sum(joined.values()).counts.tolist() == made.sum(axis=0).tolist()
    assert interval(named(made), groups=groups, n=50) == pytest.approx(interval(joined, n=50), nan_ok=True)


def test_photographs_that_cannot_say():
    "Two, or any number that agree, or a figure at its end: all is possible. What is not defined has no interval."
    (made,) = simulate(9, np.random.default_rng(0))
    assert interval({i: made[i] for i in (0, 1)}) == interval(dict.fromkeys(range(9), made[0])) == (0, 1)
    perfect = {i: PixelHistogram(np.array([[90 + i, 0], [0, 10 + i]]), np.array([0, 40000])) for i in range(9)}
    for figure in ("aupr", "auc", "dice", "specificity"):
        assert interval(perfect, figure, 0.5) == (0, 1)
    healthy = {i: PixelHistogram(np.array([[90, 5 + i], [0, 0]]), np.array([0, 40000])) for i in range(9)}
    assert np.isnan(interval(healthy)).all() and np.isnan(interval(healthy, "sensitivity", 0.5)).all()
    low, high = interval(healthy, "specificity", 0.5)
    assert 0.8 < low < high < 1


@few_examples
@given(counts)
def test_ends_lie_around_the_figure(made):
    value = average_precision(PixelHistogram(made.sum(axis=0), seven))
    low, high = interval(named(made), n=50)
    assert math.isnan(low) == math.isnan(high) and (
        math.isnan(low) or 0 <= low <= value + 1e-12 and value <= high + 1e-12 <= 1 + 1e-12
    )
    low, high = bootstrap_band(named(made), lambda one: np.array([average_precision(one), 0.25]), n=20)
    assert low[1] == high[1] == 0.25 and (np.isnan(low[0]) or low[0] <= high[0])


# Plain numbers
def test_interval_of_plain_numbers_as_written_out():
    "The mean's error is that of Student; drawings, distances and stretching are those of every interval here."
    values = np.random.default_rng(3).lognormal(0, 1, 9)
    center, error = values.mean(), stats.sem(values)
    distances = []
    for weights in np.random.default_rng(7).multinomial(9, np.full(9, 1 / 9), size=40):
        drawn = np.repeat(values, weights)
        if len(set(drawn)) > 1:
            distances.append(abs(drawn.mean() - center) / stats.sem(drawn))
    influences = (values - center) / 9
    stretch = math.sqrt(1 + (influences**4).sum() / (influences**2).sum() ** 2 - 1 / 9)
    reach = np.quantile(distances, 0.95) * error * stretch
    assert bootstrap_interval(values, n=40, seed=7) == pytest.approx((center - reach, center + reach))


@few_examples
@given(arrays.arrays(bool, st.integers(3, 12)), st.randoms(use_true_random=False))
def test_a_share_has_one_interval(right, random):
    "Given as zeros and ones, or as histograms of one pixel each; by photographs or by groups."
    votes = {
        i: PixelHistogram(np.array([[0, 0], [1 - one, one]], int), np.array([0, 40000])) for i, one in enumerate(right)
    }
    groups = [random.choice("abcd") for _ in right]
    assert bootstrap_interval(right, n=50, scale="logit") == pytest.approx(interval(votes, "sensitivity", 0.5, n=50))
    if len({groups.count(one) for one in groups}) == 1:  # leaving out a group is exact where all are of one size
        assert bootstrap_interval(right, groups=groups, n=50, scale="logit") == pytest.approx(
            interval(votes, "sensitivity", 0.5, dict(enumerate(groups)), n=50)
        )


@pytest.mark.parametrize("scale, make, true", [("log", "lognormal", 1.0), ("logit", "beta", 0.2)])
def test_intervals_of_means_hold_the_true_mean(scale, make, true):
    "27 skewed numbers: 92 to 98 % of 150 intervals of 95 % hold the mean of endlessly many."
    rng = np.random.default_rng(0)
    arguments = dict(lognormal=(-0.32, 0.8), beta=(0.6, 2.4))[make]
    made = [getattr(rng, make)(*arguments, 27) for _ in range(150)]
    ends = np.array([bootstrap_interval(values, n=120, scale=scale) for values in made])
    assert 0.92 <= ((ends[:, 0] <= true) & (true <= ends[:, 1])).mean() <= 0.98
    assert ends.min() > 0 and (scale == "log" or ends.max() < 1)


def test_a_ratio_of_two_means():
    "Rows of two numbers: what both share falls out, so the ratio is surer than its parts."
    rng = np.random.default_rng(0)
    size = rng.lognormal(0, 1, 30)
    rows = np.column_stack([2 * size + rng.normal(0, 0.1, 30), size])
    ratio = lambda some: some[:, 0].mean() / some[:, 1].mean()
    low, high = bootstrap_interval(rows, ratio, n=200, scale="log")
    assert low < ratio(rows) < high and high - low < 0.2
    first = bootstrap_interval(rows[:, 0], n=200, scale="log")
    assert first[1] / first[0] > 1.3 > high / low


def test_plain_numbers_that_cannot_say():
    for scale, whole in (("plain", (-np.inf, np.inf)), ("log", (0, np.inf)), ("logit", (0, 1))):
        for silent in ([0.2, 0.3], [0.25] * 6):
            assert bootstrap_interval(silent, n=30, scale=scale) == whole
        assert bootstrap_interval([0.2, 0.3, 0.4, 0.5], groups=list("aabb"), n=30, scale=scale) == whole
    assert bootstrap_interval([0, 0, 0], scale="logit") == (0, 1)
    with pytest.raises(RetinalError, match="from 0 to inf"):
        bootstrap_interval([-1, -2, -4], scale="log")


# One bootstrap
def test_bands_draw_what_every_interval_draws():
    (made,) = simulate(6, np.random.default_rng(0))
    drawn = draw_weights(6, 20, seed=4)
    assert (drawn == np.random.default_rng(4).multinomial(6, np.full(6, 1 / 6), size=20)).all()
    by_hand = [average_precision(sum(made[i] for i in np.repeat(range(6), weights.astype(int)))) for weights in drawn]
    seen = []
    bootstrap_band(made, lambda one: np.array([seen.append(average_precision(one)) or seen[-1]]), n=20, seed=4)
    assert seen == pytest.approx(by_hand)
    low, high = bootstrap_band(made, lambda one: np.array([average_precision(one)]), n=20, seed=4)
    assert (low[0], high[0]) == pytest.approx(tuple(np.quantile(by_hand, [0.025, 0.975])))


def test_photographs_are_drawn_in_one_place():
    "No other module of the library draws with replacement, and none has a bootstrap by that name."
    drawing = {
        path.stem
        for path in (REPOSITORY / "retinal_tl").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr == "multinomial"
        or isinstance(node, ast.FunctionDef)
        and "bootstrap" in node.name
    }
    assert drawing == {"uncertainty"}


def test_the_how_to_has_the_interval_of_this_library(monkeypatch):
    "Choosing a threshold: the interval on the page is `interval`, wider than the percentiles that promise too much."
    page = REPOSITORY / "nbs" / "howto" / "choose_threshold.ipynb"
    monkeypatch.chdir(page.parent)
    cells = [cell for cell in json.loads(page.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    names = {}
    for cell in cells[:-1]:  # the last removes the run
        exec("".join(cell["source"]), names)
    test, threshold = names["test"], names["threshold"]
    assert (names["low"], names["high"]) == interval(test, "sensitivity", threshold)
    low, high = bootstrap_band(test, lambda pooled: np.array([confusion(pooled, threshold).sensitivity]), n=1000)
    assert names["high"] - names["low"] > high[0] - low[0]
    names["folder"].cleanup()
