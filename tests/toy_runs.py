"""Run folders whose model is a rule on color, for tests and notebooks in which a trained model would take too long."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from retinal_tl.cards import ClassifierCard, DataFacts, Head, SegmenterCard, SplitNames, TrainingFacts, write_card
from retinal_tl.core import file_digest
from retinal_tl.preprocess import Preprocessing

# What the logit adds up: weights of red, green, blue (0..255) and a constant. What is bright passes for exudates, what
# is redder than the retina around it for hemorrhages; black, as outside the field of view, is neither.
RULES = {
    "exudates": (0, 0.15, 0, -22.5),
    "hemorrhages": (0.3, -0.6, 0, -5),
    "microaneurysms": (0.3, -0.6, 0, -8),
    "soft_exudates": (0, 0, 0.15, -24),
}


def toy_model(kind="segmenter", rule=RULES["exudates"], side=None, channels=1):
    """The ONNX model: a sigmoid of a weighted sum of the colors at each pixel; a classifier takes the largest of them.

    `rule` is one rule, for all maps, or a list with a rule for each map."""
    rules = np.atleast_2d(np.array(rule, np.float32)).repeat(channels, 0)
    tile = ["height", "width"] if side is None else [side, side]
    shape = ["n", *tile, len(rules)] if kind == "segmenter" else ["n", len(rules)]
    weights, constant = np.ascontiguousarray(rules[:, :3].T), np.ascontiguousarray(rules[:, 3])
    constants = [
        helper.make_tensor("weights", TensorProto.FLOAT, weights.shape, weights.tobytes(), raw=True),
        helper.make_tensor("constant", TensorProto.FLOAT, constant.shape, constant.tobytes(), raw=True),
    ]
    nodes = [
        helper.make_node("MatMul", ["photo", "weights"], ["sum"]),
        helper.make_node("Add", ["sum", "constant"], ["score"]),
    ]
    if kind == "classifier":
        nodes.append(helper.make_node("ReduceMax", ["score"], ["pooled"], axes=[1, 2], keepdims=0))
    nodes.append(helper.make_node("Sigmoid", [nodes[-1].output[0]], ["probability"]))
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("photo", TensorProto.FLOAT, ["n", *tile, 3])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, shape)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def toy_card(kind="segmenter", lesions=("exudates",), threshold=0.5, **changes):
    """A card that fits the model. `lesions` may name one, `threshold` is that of each, `changes` are other fields."""
    shared = dict(
        name=f"toy-{kind}",
        run_id="70700000",
        created="2026-11-24T03:15:00+00:00",
        status="finished",
        encoder="none",
        width=1.0,
        preprocessing=Preprocessing(diameter=256, clahe="none"),
        tile=160,
        overlap=0.25,
        split=SplitNames((), ()),
        data=DataFacts("toy", photos=0, training_eyes=()),
        training=TrainingFacts({}, backend="none", precision="float32"),
        versions={},
        hardware="",
        command="",
        licence="",
        limits=(),
    )
    if kind == "classifier":
        return ClassifierCard(**shared | dict(head=Head("max"), threshold=threshold) | changes)
    lesions = (lesions,) if isinstance(lesions, str) else tuple(lesions)
    own = dict(lesions=lesions, transfer="scratch", thresholds=dict.fromkeys(lesions, threshold))
    return SegmenterCard(**shared | own | changes)


def write_run(folder, model, card):
    """A run folder of any bytes and any card, which then has the model's right digest."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    write_card(folder, replace(card, files={"model.onnx": file_digest(folder / "model.onnx")}))
    return folder


def write_toy_run(folder, kind="segmenter", lesions: str | Sequence[str] = ("exudates",), side=None, **changes):
    """A run folder that works; `changes` go into its card."""
    card = toy_card(kind, lesions, **changes)
    rules = [RULES[lesion] for lesion in card.lesions] if kind == "segmenter" else RULES["exudates"]
    return write_run(folder, toy_model(kind, rules, side), card)


def change_card(folder, **changes):
    """Put values into the JSON of a card as an attacker would, past every check."""
    path = Path(folder) / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return Path(folder)
