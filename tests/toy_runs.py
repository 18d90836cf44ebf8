"""Run folders whose model is a rule on color, for tests and notebooks in which a trained model would take too long."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

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


def decoder_model(channels=48, lesions=("exudates", "hemorrhages"), seed=0):
    """The ONNX model of an encoder of two sizes, with a decoder for each lesion, as those of the package are built.

    It learned nothing: weights are by chance."""
    chance, graph = np.random.default_rng(seed), onnx.GraphProto(name="decoders")

    def keep(name, values):
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.float32), name))

    def add(kind, taken, given, **how):
        graph.node.append(helper.make_node(kind, taken, [given], **how))

    def convolve(taken, given, inputs, outputs, side=3):
        size = (outputs, inputs, side, side)
        keep(f"{given}/kernels", chance.normal(scale=1 / np.sqrt(inputs * side * side), size=size))
        keep(f"{given}/bias", chance.normal(scale=0.1, size=outputs))
        add("Conv", [taken, f"{given}/kernels", f"{given}/bias"], given, pads=[side // 2] * 4)

    keep("white", [1 / 255])
    keep("twice", [1, 1, 2, 2])
    add("Mul", ["photo", "white"], "bright")
    add("Transpose", ["bright"], "colors", perm=(0, 3, 1, 2))
    for taken, given, inputs in (("colors", "first", 3), ("first/relu", "second", channels)):
        convolve(taken, given, inputs, channels)
        add("Relu", [given], f"{given}/relu")
    add("MaxPool", ["second/relu"], "half", kernel_shape=[2, 2], strides=[2, 2])
    convolve("half", "third", channels, 2 * channels)
    add("Relu", ["third"], "third/relu")
    how = dict(mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    add("Resize", ["third/relu", "", "twice"], "doubled", **how)
    for lesion in lesions:
        convolve("doubled", f"{lesion}/from below", 2 * channels, channels)
        convolve("second/relu", f"{lesion}/beside", channels, channels)
        add("Add", [f"{lesion}/from below", f"{lesion}/beside"], lesion)
        add("Relu", [lesion], f"{lesion}/relu")
        convolve(f"{lesion}/relu", f"{lesion}/score", channels, 1, side=1)
    add("Concat", [f"{lesion}/score" for lesion in lesions], "scores", axis=1)
    add("Sigmoid", ["scores"], "probabilities")
    add("Transpose", ["probabilities"], "maps", perm=(0, 2, 3, 1))
    for values, name, count in ((graph.input, "photo", 3), (graph.output, "maps", len(lesions))):
        values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "height", "width", count]))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)


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
