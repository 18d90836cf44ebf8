"""Pictures and tables of an evaluation: what they show, and that they say so."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from test_evaluation import ITEMS

from retinal_tl.core import RetinalError
from retinal_tl.evaluation import evaluate_classifier, evaluate_segmentation, rank_images
from retinal_tl.pictures import (
    OUTCOME_COLORS,
    contact_sheet,
    metrics_rows,
    metrics_table,
    plot_example,
    plot_froc,
    plot_precision_recall,
    plot_reliability,
    plot_roc,
)

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


@pytest.mark.parametrize("plot", [plot_precision_recall, plot_roc, plot_froc, plot_reliability])
def test_curves_of_healthy_photographs_only(plot):
    "Nothing is defined, and still there is a picture."
    plot(evaluate_segmentation([item for item in ITEMS if not item[2].any()], threshold=0.2)).canvas.draw()


def test_rows_of_a_card():
    "By part and lesion, however many lesions there are; of a classifier by part alone."
    classifier = evaluate_classifier([True, False], [0.9, 0.1], n=0)
    assert metrics_rows(dict(validation=classifier, test=classifier)) == dict(validation=classifier, test=classifier)
    rows = metrics_rows(dict(validation=dict(exudates=RESULT), test=dict(exudates=RESULT)))
    assert rows == {"validation, exudates": RESULT, "test, exudates": RESULT}
    table = metrics_table(rows | metrics_rows(dict(validation=classifier)), ["auc", "lesion_level.f1"]).split("\n")
    assert [line.split("|")[1].strip() for line in table[2:]] == [
        "validation, exudates",
        "test, exudates",
        "validation",
    ]
    assert table[-1].endswith("|  |")  # a classifier has no lesions


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
