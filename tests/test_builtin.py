"""The models that come with the package: what they say is pinned, so that a later change that hurts them is seen."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from retinal_tl import classify, segment
from retinal_tl.builtin import halve_weights
from retinal_tl.cards import check_files, read_card
from retinal_tl.core import LESIONS, RetinalError, run_folder
from retinal_tl.inference import at_quality, load_run, load_segmenters
from retinal_tl.leakage import seen_signatures
from retinal_tl.masks import read_mask
from retinal_tl.metrics import average_precision, pixel_histogram
from retinal_tl.network_files import for_engine
from retinal_tl.plans import plan
from retinal_tl.readers import read_idrid
from retinal_tl.synthetic import phantom, write_synthetic

pytestmark = [pytest.mark.slow, pytest.mark.long]

# Mean probability over a phantom of 700 pixels, with the look at half the scale (2026-12-01): phantom → lesion
JOINED = {12: dict(exudates=0.003296, hemorrhages=0.004815, microaneurysms=4.377e-05, soft_exudates=1.594e-05)}
FAST = {11: dict(exudates=0.000793, hemorrhages=0.0001457, microaneurysms=3.681e-05, soft_exudates=2.494e-05)}
CLASSIFIER = {30: (0.014, 0.748), 33: (0.048, 0.986)}  # without a lesion, with all four (2026-11-30)
IDRID = os.environ.get("RETINAL_TL_IDRID")


def eye(seed):
    return phantom(seed, size=700).photo


@pytest.mark.parametrize("model, pinned", [("builtin", JOINED), ("builtin-fast", FAST)])
def test_segmenters_on_phantoms(model, pinned):
    [(seed, means)] = pinned.items()
    maps = segment(eye(seed), model)
    assert set(maps) == set(LESIONS)
    for lesion, expected in means.items():
        assert float(maps[lesion].mean()) == pytest.approx(expected, rel=0.03, abs=1e-5), lesion


def test_builtin_asks_two_networks():
    """Members are part of its files; `fast` asks the one that is `builtin-fast`."""
    run = load_run("builtin")
    assert [member.folder for member in run.members] == [run_folder("builtin") / "vgg16", run_folder("builtin-fast")]
    assert at_quality(run, "fast").folder == run_folder("builtin-fast")
    assert [member.folder for member in load_run("builtin", last=True).members] == [run_folder("builtin-fast")]
    assert [run.folder for run in load_segmenters(["builtin"], "fast")] == [run_folder("builtin-fast")]
    assert set(run.card.files) == {f"{name}/model.onnx" for name in run.card.members}
    for member in run.members:
        assert set(member.card.split.training) <= set(run.card.split.training)
        assert set(run.card.split.validation) <= set(member.card.split.validation)
    assert {parent.role for parent in run.card.parents[:2]} == {"member"} and "ImageNet" in run.card.licence


@pytest.mark.parametrize("seed", CLASSIFIER)
def test_classifier_on_phantoms(seed):
    for lesions, expected in zip(((), LESIONS), CLASSIFIER[seed]):
        assert classify(phantom(seed, 700, lesions).photo) == pytest.approx(expected, abs=0.05), lesions


@pytest.mark.parametrize("kind", ["start", "stage1"])
def test_cards_say_how_the_models_were_trained(kind):
    """A card that says 'precision: auto' cannot be repeated on another machine."""
    training = read_card(run_folder("builtin", kind)).training
    assert (training.backend, training.precision) == ("jax", "mixed_bfloat16")
    assert training.seconds > 0 and training.epochs == training.settings["epochs"]


def test_networks_are_written_for_their_engine():
    """As a run's network is today: `python tools/build/builtin_networks.py` writes them anew."""
    for member in load_run("builtin").members:
        contents = (member.folder / "model.onnx").read_bytes()
        assert halve_weights(for_engine(contents)) == contents, member.card.encoder


def test_names_in_the_cards_can_be_found_again():
    """Names of `csv` data are relative to its folder, so that two folders may hold files of one name."""
    cards = [read_card(run_folder("builtin", kind)) for kind in ("segmenter", "classifier", "stage1")]
    names = {name for card in cards for part in (card.split.training, card.split.validation) for name in part}
    names |= {name for card in cards for *pair, _ in card.data.same_eyes for name in pair}
    assert {name.partition("/")[0] for name in names if name.startswith("csv:")} == {"csv:images"}
    assert all(name.startswith(("csv:images/", "idrid:IDRiD_")) for name in names)


def test_the_segmenter_names_the_classifier_that_it_began_with():
    segmenter, classifier = (read_card(run_folder("builtin", kind)) for kind in ("start", "stage1"))
    assert [parent.role for parent in segmenter.parents] == ["stage1", "start", "pseudo_labels"]
    assert segmenter.parents[0].run_id == classifier.run_id == classifier.name[-8:]


@pytest.mark.parametrize("kind", ["segmenter", "classifier"])
def test_cards_say_what_people_must_know(kind):
    run = load_run("builtin", kind)
    check_files(run.folder, run.card)
    assert "CC BY 4.0" in run.card.licence and any("not a medical device" in limit for limit in run.card.limits)
    assert run.card.metrics["folds" if kind == "classifier" else "validation"] and run.card.split.validation
    assert not set(run.card.split.validation) & set(run.card.split.training)


def test_the_classifier_counts_the_spots_of_the_fast_segmenter():
    """Its network travels once, and the eyes that weigh the spots have taught that network nothing."""
    run, fast = load_run("builtin", "classifier"), load_run("builtin-fast")
    assert [member.folder for member in run.members] == [fast.folder]
    assert [path.name for path in run.folder.iterdir()] == ["card.json"]
    assert [reading.question for reading in run.card.readings] == ["lesion", "referable"]
    weighed = set(run.card.split.training) - set(fast.card.split.training)
    assert len(weighed) == run.card.metrics["folds"]["images"] == run.card.metrics["folds, referable"]["images"]
    assert min(run.card.metrics[part]["auc"] for part in ("folds", "folds, referable")) >= 0.95


def test_the_large_segmenter_is_slim():
    """Its network has a fraction of the weights of the one that a training goes on from, and all else in common."""
    slim, whole = load_run("builtin").members[0], read_card(run_folder("builtin", "start"))
    assert slim.card.training.settings == whole.training.settings | dict(slim_of=whole.name, slim_share=0.995)
    assert (slim.card.split, slim.card.data, slim.card.parents) == (whole.split, whole.data, whole.parents)
    assert (slim.folder / "model.onnx").stat().st_size < 3e6


@pytest.mark.parametrize("kind", ["stage1", "start"])
def test_what_a_training_begins_with_is_there(kind):
    folder = run_folder("builtin", kind)
    check_files(folder, read_card(folder))
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "model.keras"]
    with pytest.raises(RetinalError, match="model.onnx"):
        load_run(folder)


def test_the_fast_segmenter_says_what_it_began_with():
    run = load_run("builtin-fast")
    card = run.card
    check_files(run.folder, card)
    assert card.parents == () and card.training.settings["start"] == "natural"
    assert (card.training.backend, card.training.precision) == ("tensorflow", "float32")
    assert card.start is not None and card.start.licence == "Apache-2.0" and len(card.start.digest) == 64
    assert "CC BY 4.0" in card.licence and "ImageNet" in card.licence and card.start.source in card.licence
    assert not set(card.split.validation) & set(card.split.training)
    attribution = (run_folder("builtin").parent / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for words in ("EfficientNet-lite2", "Apache License 2.0", "ImageNet", "by ML Illustrated"):
        assert words in attribution, words


def test_a_training_can_go_on_from_the_package(tmp_path):
    """`start_run builtin`: its network and scale, its eyes known to the guard, some of its lesions or all."""
    root = write_synthetic(tmp_path / "eyes", count=8, size=256, seed=4, workers=1)
    given = dict(data="folder", data_root=str(root), output=str(tmp_path / "runs"), start_run="builtin", validation=0.5)
    card = read_card(run_folder("builtin", "start"))
    for lesion, lesions in (("all", LESIONS), ("exudates", ("exudates",))):
        made = plan("stage2", given | dict(lesion=lesion))
        assert (made.settings.encoder, made.settings.width) == (card.encoder, card.width)
        assert made.settings.diameter == card.preprocessing.diameter and made.lesions == lesions
        assert [(parent.role, parent.run_id) for parent in made.parents] == [("start", card.run_id)]
        assert "builtin (finished)" in str(made) and "site-packages" not in str(made)
    assert len(seen_signatures(made.parents[0].folder)) == len(
        json.loads((run_folder("builtin").parent / "seen.json").read_text())["start"]["training"]
    )
    with pytest.raises(RetinalError, match="it has width 0.5 where 1.0 is asked for"):
        plan("stage2", given | dict(width=1))
    with pytest.raises(RetinalError, match="builtin-fast has no model.keras to go on from"):
        plan("stage2", given | dict(start_run="builtin-fast"))
    with pytest.raises(RetinalError, match="begins with start_run or with start"):
        plan("stage2", given | dict(start="random"))


def test_they_stay_small():
    files = [path for path in load_run("builtin", "segmenter").folder.parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 62e6
    assert {path.suffix for path in files} == {".json", ".onnx", ".keras", ".txt", ".md", ".npz"}, (
        "no photograph travels in the package"
    )
    [signatures] = [path for path in files if path.suffix == ".npz"]  # which tell an eye and do not show it
    assert signatures.name == "signatures.npz" and signatures.stat().st_size < 3e6


def test_the_licence_lies_beside_the_weights():
    """CC BY 4.0, section 3(a): authors, notices of the licence and its disclaimer, a link, what was changed."""
    weights = load_run("builtin", "segmenter").folder.parent
    licence = (weights / "LICENSE-CC-BY-4.0.txt").read_text(encoding="utf-8")
    sections = [line for line in licence.splitlines() if line.startswith("Section ")]
    assert len(sections) == 8 and len(licence.split()) > 2_500, "the whole text"
    attribution = (weights / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for words in (
        "the retinal_tl founders",
        "(c) by Prasanna Porwal, Samiksha Pachade and Manesh Kokare",
        "https://creativecommons.org/licenses/by/4.0/",
        "section 5 of the licence",
        "https://ieee-dataport.org/open-access/indian-diabetic-retinopathy-image-dataset-idrid",
        "**Changes:**",
    ):
        assert words in attribution, words


@pytest.mark.skipif(not IDRID, reason="RETINAL_TL_IDRID does not name the folder of IDRiD")
@pytest.mark.parametrize("model", ["builtin", run_folder("builtin", "start"), "builtin-fast"])
def test_segmenter_on_its_validation_photographs(model):
    run = load_run(model, "segmenter")
    names = {name.removeprefix("idrid:") for name in run.card.split.validation}
    examples = [example for example in read_idrid(Path(IDRID)).examples if example.photo.name in names]
    assert len(examples) == len(names)
    counted = {lesion: [] for lesion in run.lesions}
    for example in examples:
        for lesion, probability in segment(example.photo, run).items():
            path = example.masks[lesion]
            mask = np.zeros(probability.shape, bool) if path is None else read_mask(path, probability.shape)
            counted[lesion].append(pixel_histogram(probability, mask))
    for lesion, histograms in counted.items():
        assert average_precision(sum(histograms)) == pytest.approx(
            run.card.metrics["validation"][lesion]["aupr"], abs=0.01
        ), lesion


@pytest.mark.parametrize("kind", ["start", "stage1"])
def test_what_a_training_begins_with_can_be_read(kind):
    from retinal_tl.model_files import load_weights

    model = load_weights(run_folder("builtin", kind))
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
