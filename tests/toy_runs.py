"""Run folders whose model is one rule on color: what tests and notebooks use where a trained model would take too long."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from retinal_tl.cards import write_card
from retinal_tl.core import file_digest

# What the logit adds up: weights of red, green, blue (0..255) and a constant. What is bright passes for exudates, what is
# redder than the retina around it for hemorrhages; black, as outside the field of view, is neither.
RULES = {
    "exudates": (0, 0.15, 0, -22.5),
    "hemorrhages": (0.3, -0.6, 0, -5),
    "microaneurysms": (0.3, -0.6, 0, -8),
    "soft_exudates": (0, 0, 0.15, -24),
}


def toy_model(kind="segmenter", rule=RULES["exudates"], side=None, channels=1):
    """The ONNX model: a sigmoid of a weighted sum of the colors at each pixel; a classifier takes the largest of them."""
    tile = ["height", "width"] if side is None else [side, side]
    shape = ["n", *tile, channels] if kind == "segmenter" else ["n", channels]
    weights = np.repeat(np.array(rule[:3], np.float32)[:, None], channels, 1)
    constants = [
        helper.make_tensor("weights", TensorProto.FLOAT, weights.shape, weights.tobytes(), raw=True),
        helper.make_tensor("constant", TensorProto.FLOAT, [1], [rule[3]]),
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


def toy_card(kind="segmenter", lesion="exudates", **changes):
    """A card that fits the model."""
    segmenter = kind == "segmenter"
    card = dict(
        schema_version=1,
        kind=kind,
        name=f"toy-{kind}",
        created="2026-11-24T03:15:00+00:00",
        status="finished",
        encoder="none",
        width=1,
        lesion=lesion if segmenter else None,
        transfer="scratch" if segmenter else None,
        head={} if segmenter else {"pooling": "max"},
        tile=160,
        overlap=0.25,
        threshold=0.5,
        preprocessing=dict(diameter=256, clahe="none", clip_limit=1.5, tiles=8),
    )
    return card | changes


def write_run(folder, model, card):
    """A run folder of any bytes and any card, which then has the model's right digest."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    write_card(folder, card | {"files": {"model.onnx": file_digest(folder / "model.onnx")}})
    return folder


def write_toy_run(folder, kind="segmenter", lesion="exudates", side=None, **changes):
    """A run folder that works; `changes` go into its card."""
    rule = RULES[lesion] if kind == "segmenter" else RULES["exudates"]
    return write_run(folder, toy_model(kind, rule, side), toy_card(kind, lesion, **changes))
