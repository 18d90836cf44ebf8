"""The tool that brought cards of schema version 1 to version 2: nothing that an old card says is lost."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from retinal_tl.cards import read_card

REPOSITORY = Path(__file__).resolve().parent.parent
RESULT = dict(images=2, aupr=0.75, per_image=[dict(name="csv:left.png", aupr=0.5)])


@pytest.fixture
def tool(monkeypatch):
    """`tools/build/convert_cards.py` as a function of its command line."""
    path = REPOSITORY / "tools" / "build" / "convert_cards.py"
    spec = importlib.util.spec_from_file_location("convert_cards", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["convert_cards.py", *map(str, words)])
        module.main()

    return call


def old_card(**changes):
    """A card of version 1."""
    training = dict(encoder="vgg16", seed=3, precision="auto", seconds=12.5, epochs_trained=2, epochs=6)
    card = dict(
        schema_version=1,
        kind="segmenter",
        name="stage2-exudates-frozen-csv-demo-vgg16-0a1b2c3d",
        created="2026-11-24T03:15:00+00:00",
        status="finished",
        encoder="vgg16",
        width=1,
        lesion="exudates",
        transfer="frozen",
        head={},
        preprocessing=dict(diameter=512, clahe="rgb", clip_limit=1.5, tiles=8),
        tile=160,
        overlap=0.25,
        flips=True,
        threshold=0.42,
        split=dict(training=["csv:right.png"], validation=["csv:left.png"], test=[]),
        data=dict(
            name="csv",
            photos=2,
            training_eyes=["7"],
            same_eyes=[["left.png", "right.png", 0.99]],
            leaks_allowed=[],
        ),
        training=training | dict(flips=True, alarm_share=0.25),
        metrics=dict(validation=RESULT),
        versions=dict(tensorflow="2.21.0"),
        hardware="NVIDIA H200",
        command="retinal_tl run stage2",
        licence="",
        limits=["fails"],
        files={"model.keras": "0" * 64},
        parents=[
            dict(
                name="stage1-csv-demo-vgg16-4d5e6f70",
                kind="classifier",
                model="1" * 64,
                data=dict(name="csv", training_eyes=["9"]),
                metrics=dict(validation=dict(auc=0.9, auc_interval=[0.8, 0.95])),
                training=training,
            )
        ],
    )
    return card | changes


@pytest.fixture
def table(tmp_path):
    """A table in which every photograph has a folder of its own."""
    path = tmp_path / "labels.csv"
    path.write_text("image,lesion\np0/left.png,1\np1/right.png,0\n")
    return path


def converted(tool, tmp_path, card, *words):
    """What `read_card` says of a card after the tool."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "card.json").write_text(json.dumps(card))
    tool(folder, *words)
    return read_card(folder)


def test_a_segmenter_of_one_lesion(tool, tmp_path, table):
    card = converted(tool, tmp_path, old_card(), "--table", table)
    assert (card.kind, card.lesions, card.thresholds, card.flips) == (
        "segmenter",
        ("exudates",),
        dict(exudates=0.42),
        "all",
    )
    assert card.metrics["validation"]["exudates"]["aupr"] == 0.75
    assert card.metrics["validation"]["exudates"]["per_image"][0]["name"] == "csv:p0/left.png"
    assert (card.split.training, card.split.validation) == (("csv:p1/right.png",), ("csv:p0/left.png",))
    assert card.data.same_eyes == (("csv:p0/left.png", "csv:p1/right.png", 0.99),)
    assert (card.run_id, card.training.backend, card.training.precision) == ("0a1b2c3d", "tensorflow", "mixed_bfloat16")
    assert (card.training.seconds, card.training.epochs) == (12.5, 2)
    assert card.training.settings["flips"] == "all" and card.training.settings["hard_negative_share"] == 0.25
    [parent] = card.parents
    assert (parent.role, parent.run_id, parent.auc, parent.auc_interval) == ("stage1", "4d5e6f70", 0.9, (0.8, 0.95))
    assert (parent.training_eyes, parent.seed, parent.encoder, parent.model) == (("9",), 3, "vgg16", "1" * 64)


def test_a_segmenter_of_two_that_made_its_own_pseudo_labels(tool, tmp_path):
    lesions, parent = ["exudates", "hemorrhages"], old_card()["parents"][0]
    start = parent | dict(kind="segmenter", name="stage2-exudates-frozen-csv-demo-vgg16-11111111", metrics={})
    card = old_card(
        lesion=lesions,
        threshold=dict(exudates=0.3, hemorrhages=None),
        metrics=dict(validation=dict.fromkeys(lesions, RESULT)),
        flips="half turn",
        parents=[parent, start],
    )
    card = converted(tool, tmp_path, card, "--pseudo-labels", "--backend", "jax", "--precision", "float32")
    assert (card.lesions, card.flips, card.thresholds_in_use) == (
        tuple(lesions),
        "half_turn",
        dict(exudates=0.3, hemorrhages=0.5),
    )
    assert set(card.metrics["validation"]) == set(lesions)
    assert [one.role for one in card.parents] == ["stage1", "start", "pseudo_labels"]
    assert (card.training.backend, card.training.precision) == ("jax", "float32")
    assert card.split.training == ("csv:right.png",)  # no table: the name stays


def test_a_classifier(tool, tmp_path):
    card = old_card(
        kind="classifier", lesion=None, transfer=None, head=dict(pooling="logsumexp", dropout=0.2), parents=[]
    )
    card["metrics"] = dict(validation=dict(images=2, auc=0.9))
    card = converted(tool, tmp_path, card)
    assert (card.kind, card.threshold, card.head.pooling, card.head.dropout) == ("classifier", 0.42, "logsumexp", 0.2)
    assert card.metrics["validation"]["auc"] == 0.9


def test_a_second_time_changes_nothing(tool, tmp_path):
    first = converted(tool, tmp_path, old_card())
    tool(tmp_path / "run")
    assert read_card(tmp_path / "run") == first


def test_summaries_in_results(tool, tmp_path):
    parents = [dict(name="stage1-csv-demo-vgg16-4d5e6f70", kind="classifier", seconds=3.0)]
    one = old_card(parents=parents)
    several = one | dict(
        lesion=["exudates", "hemorrhages"],
        threshold=dict(exudates=0.3, hemorrhages=0.4),
        metrics={
            "validation, exudates": dict(images=2, aupr=0.5),
            "validation, hemorrhages": dict(images=2, aupr=0.25),
        },
    )
    path = tmp_path / "results.json"
    path.write_text(json.dumps([one, several]))
    tool(path)
    tool(path)
    first, second = json.loads(path.read_text())
    assert (first["lesions"], first["thresholds"]) == (["exudates"], dict(exudates=0.42))
    assert first["metrics"]["validation"]["exudates"]["aupr"] == 0.75
    assert second["metrics"]["validation"]["hemorrhages"]["aupr"] == 0.25
    assert first["parents"] == [parents[0] | dict(role="stage1", run_id="4d5e6f70")]
    assert first["training"]["seconds"] == 12.5 and first["training"]["settings"]["seed"] == 3


def test_what_the_repository_holds_is_converted():
    for name in ("demo", "idrid"):
        for run in json.loads((REPOSITORY / "results" / f"{name}.json").read_text()):
            assert run["name"].endswith(run["run_id"])
            if run["kind"] == "segmenter":
                assert list(run["metrics"]["validation"]) == list(run["thresholds"]) == run["lesions"]
