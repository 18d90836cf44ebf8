"""Run folders that must not be used: each gets one sentence, nothing of it is executed, and the process survives."""

import json
import os
import pickle
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parent))
import fuzz_samples
from retinal_tl import strangers
from retinal_tl.cards import write_card
from retinal_tl.core import RetinalError, file_digest
from retinal_tl.images import write_png
from retinal_tl.inference import classify, load_run, segment
from retinal_tl.synthetic import phantom
from toy_runs import change_card, toy_card, toy_model, write_run, write_toy_run

BOMBS = fuzz_samples.onnx_bombs()


def refusal(folder, kind=None):
    """The one sentence with which a run is refused."""
    with pytest.raises(RetinalError) as caught:
        load_run(folder, kind)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".") and len(sentence) < 500, sentence
    assert str(folder) in sentence, sentence
    return sentence


def test_toy_run_is_accepted(tmp_path):
    assert load_run(write_toy_run(tmp_path / "run")).card.lesions == ("exudates",)
    assert load_run(str(write_toy_run(tmp_path / "side", side=160))).threshold == 0.5


def test_no_such_run(tmp_path):
    assert "no such run" in refusal(tmp_path / "absent")


def test_not_a_run_folder(tmp_path):
    assert "not a run folder" in refusal(tmp_path)
    run = write_toy_run(tmp_path / "run")
    assert "not a run folder" in refusal(run / "model.onnx")


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "null", "\x80\x04K\x01.", "[" * 200_000, '{"schema_version": ' + "9" * 5000 + "}"]
)
def test_card_that_is_none(tmp_path, text):
    run = write_toy_run(tmp_path / "run")
    (run / "card.json").write_bytes(text.encode("latin-1"))
    refusal(run)


@pytest.mark.parametrize(
    "change, said",
    [
        (dict(schema_version=3), "version 3"),
        (dict(schema_version=1), "version 1 and this retinal_tl reads version 2: train the run again"),
        (dict(schema_version="2"), "version"),
        (dict(kind="detector"), "kind"),
        (dict(lesions=["../x"]), "lesions"),
        (dict(lesions=[]), "lesions"),
        (dict(lesions=None), "lesions"),
        (dict(width=0), "width"),
        (dict(width=5), "width"),
        (dict(tile=10**9), "tile"),
        (dict(overlap=0.99), "overlap"),
        (dict(tile=16, overlap=0.75, preprocessing=dict(diameter=8192, clahe="none")), "4,194,304 tiles"),
        (dict(overlap=float("nan")), "JSON"),
        (dict(thresholds=dict(exudates=-1)), "threshold"),
        (dict(thresholds={"../x": 0.5}), "threshold"),
        (dict(metrics=dict(validation={"../x": {}})), "metrics"),
        (dict(flips="half turn"), "flips"),
        (dict(run_id="../x"), "run_id"),
        (dict(temperature=2), "temperature"),
        (dict(preprocessing=dict(diameter=9000, clahe="rgb")), "diameter"),
        (dict(status="training"), "half-written"),
        (dict(preprocessing=dict(diameter=256, clahe="rgb", sharpen=1)), "settings"),
        (dict(files={"../../model.onnx": "0" * 64}), "may not"),
        (dict(files={}), "not complete"),
        (dict(files={"model.onnx": "0" * 64}), "digest"),
        (dict(head=[]), "head"),
        (dict(status="trained"), "half-written"),
    ],
)
def test_card_with_a_wrong_value(tmp_path, change, said):
    run = write_toy_run(tmp_path / "run")
    change_card(run, **change)
    assert said in refusal(run)


@pytest.mark.parametrize(
    "change, said",
    [
        (dict(head=[]), "head"),
        (dict(head={}), "head.pooling"),
        (dict(head=dict(pooling="../x", dropout=0, image_size=None)), "pooling"),
        (dict(head=dict(pooling="median", dropout=0, image_size=None)), "pooling that this retinal_tl does not know"),
        (dict(threshold=-1), "threshold"),
        (dict(threshold=dict(exudates=0.5)), "threshold"),
        (dict(lesions=["exudates"]), "lesions"),
        (dict(metrics=[]), "metrics"),
    ],
)
def test_card_of_a_classifier_with_a_wrong_value(tmp_path, change, said):
    assert said in refusal(change_card(write_toy_run(tmp_path / "run", "classifier"), **change))


def test_a_tower_of_lists_does_not_topple_the_process(tmp_path):
    run = write_toy_run(tmp_path / "run")
    text = (run / "card.json").read_text()
    for depth in (2_000, 20_000):
        tower = "[" * depth + "]" * depth
        (run / "card.json").write_text(
            text.replace('"metrics": {}', f'"metrics": {{"a": {{"exudates": {{"b": {tower}}}}}}}')
        )
        assert "nested" in refusal(run) or "JSON" in refusal(run)


def test_card_that_lacks_a_key(tmp_path):
    run = write_toy_run(tmp_path / "run")
    card = json.loads((run / "card.json").read_text())
    for key in sorted(set(card) - {"coarse", "export", "start", "decoder", "members"}):
        (run / "card.json").write_text(json.dumps({name: value for name, value in card.items() if name != key}))
        assert key in refusal(run)


def test_half_copied_model(tmp_path):
    run = write_toy_run(tmp_path / "run")
    contents = (run / "model.onnx").read_bytes()
    (run / "model.onnx").write_bytes(contents[:-10])
    assert "digest differs" in refusal(run)
    (run / "model.onnx").unlink()
    assert "half-written" in refusal(run)
    os.mkfifo(run / "model.onnx")  # reading it would wait for ever
    assert "half-written" in refusal(run)


class Payload:
    """Unpickled, it would make a folder."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_pickles_are_never_opened(tmp_path):
    target = tmp_path / "executed"
    contents = pickle.dumps(Payload(target))
    refusal(write_run(tmp_path / "model", contents, toy_card()))
    run = write_toy_run(tmp_path / "run")
    for name in ("model.keras", "card.pkl", "history.csv"):
        (run / name).write_bytes(contents)  # beside a good model: not looked at
    load_run(run)
    (run / "card.json").write_bytes(contents)
    refusal(run)
    assert not target.exists()


def external(model, location):
    """The same model, its weights in another file."""
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "12")):
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    return model


@pytest.mark.parametrize("location", ["weights.bin", "/etc/passwd", "../weights.bin", "*/_ORT_MEM_ADDR_/*"])
def test_external_data_is_refused(tmp_path, monkeypatch, location):
    run = write_run(tmp_path / "run", external(toy_model(), location), toy_card())
    for folder in (tmp_path, run):
        (folder / "weights.bin").write_bytes(np.ones(3, np.float32).tobytes())
    monkeypatch.chdir(run)
    assert "outside itself" in refusal(run)


def test_custom_operator_is_refused(tmp_path):
    model = toy_model()
    model.graph.node[0].op_type, model.graph.node[0].domain = "Evil", "evil.operators"
    model.opset_import.append(helper.make_opsetid("evil.operators", 1))
    assert "ONNX Runtime" in refusal(write_run(tmp_path / "run", model, toy_card()))


@pytest.mark.parametrize("number", range(len(BOMBS)))
def test_networks_that_grow_or_go_on_without_end(tmp_path, monkeypatch, number):
    """By one large step, by doubling, by multiplying for hours, by a loop: refused, in little time and memory."""
    monkeypatch.setattr(strangers, "MOST_SECONDS", 0.5)
    for name, data in BOMBS[number].items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(RetinalError, match="could not be run|without end"):
        load_run(tmp_path).predict(np.zeros((1, 160, 160, 3), np.float32))


def test_a_file_larger_than_any_model_is_not_read(tmp_path):
    run = write_toy_run(tmp_path / "run")
    with open(run / "model.onnx", "r+b") as file:
        file.truncate(1 << 40)  # takes no room on the disk
    assert "over 4 GiB" in refusal(run)


def evil_config(part):
    """A configuration of Keras that would call a function of the system, were anything looked up by its name."""
    call = {
        "module": "os",
        "class_name": "system",
        "config": {"command": f"touch {part}"},
        "registered_name": "os>system",
    }
    layer = {"module": "keras.layers", "class_name": "Lambda", "config": {"function": call}, "registered_name": None}
    return json.dumps(
        call | {"config": {"layers": [layer, call]}, "build_config": call, "compile_config": {"loss": call}}
    )


@pytest.mark.slow
def test_a_keras_file_is_read_for_its_numbers_alone(tmp_path, monkeypatch):
    """Its configuration is never opened; arrays that are not in the file are refused before memory is taken."""
    import keras

    from retinal_tl import model_files
    from retinal_tl.model_files import load_weights

    opened = []
    monkeypatch.setattr(keras.saving, "deserialize_keras_object", lambda *given, **more: opened.append(given))
    [sound, *bombs] = [*fuzz_samples.keras_runs(), *fuzz_samples.keras_bombs()[:9]]
    said = []
    for i, files in enumerate((sound, *bombs)):
        run = tmp_path / str(i)
        run.mkdir()
        for name, data in files.items():
            (run / name).write_bytes(data)
        try:
            load_weights(run)
            said.append("")
        except RetinalError as error:
            assert "\n" not in str(error)
            said.append(str(error))
    assert said[0] == said[1] == said[2] == said[3] == "" and said[9] == "", (
        said
    )  # odd beside the weights: not looked at
    assert "claims arrays that it does not hold" in said[4] and "leads elsewhere" in said[5], said
    assert "leads elsewhere" in said[6] and "leads elsewhere" in said[7] and "larger than it can be" in said[8], said
    with zipfile.ZipFile(tmp_path / "0" / "model.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    evil = tmp_path / "evil"
    evil.mkdir()
    parts["config.json"] = evil_config(tmp_path / "executed").encode()
    (evil / "model.keras").write_bytes(fuzz_samples.zipped(parts))
    card = toy_card(encoder="vgg16", width=0.0625)
    write_card(evil, replace(card, files={"model.keras": file_digest(evil / "model.keras")}))
    load_weights(evil)
    assert not opened and not (tmp_path / "executed").exists()
    built = []
    monkeypatch.setattr(model_files, "build_model", lambda *given, **more: built.append(given))
    change_card(evil, width=4)  # nine hundred megabytes
    with pytest.raises(RetinalError, match="is too small for its card"):
        load_weights(evil)
    assert not built


def two_outputs():
    model = toy_model()
    model.graph.output.append(helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", "height", "width", 1]))
    return model


def other_type():
    model = toy_model()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for i, constant in enumerate(model.graph.initializer):
        model.graph.initializer[i].CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(constant).astype(float), constant.name)
        )
    return model


@pytest.mark.parametrize(
    "model, card",
    [
        (toy_model(), toy_card("classifier")),
        (toy_model("classifier"), toy_card()),
        (toy_model(side=480), toy_card()),
        (toy_model(channels=2), toy_card()),
        (two_outputs(), toy_card()),
        (other_type(), toy_card()),
        (toy_model("classifier", side=160), toy_card("classifier")),
        (toy_model(), toy_card(lesions=("exudates", "hemorrhages"))),
    ],
)
def test_shapes_that_contradict_the_card(tmp_path, model, card):
    assert "does not fit its card" in refusal(write_run(tmp_path / "run", model, card))


def test_shapes_that_only_a_try_shows(tmp_path):
    """A graph may leave its output's sides free and then give another size."""
    model = toy_model()
    pool = helper.make_node("MaxPool", ["turned"], ["small"], kernel_shape=[2, 2], strides=[2, 2])
    there, back = (
        helper.make_node("Transpose", [a], [b], perm=p)
        for a, b, p in (("sum", "turned", [0, 3, 1, 2]), ("small", "shrunk", [0, 2, 3, 1]))
    )
    model.graph.node[1].input[0] = "shrunk"
    for i, node in enumerate((there, pool, back)):
        model.graph.node.insert(1 + i, node)
    assert "instead of" in refusal(write_run(tmp_path / "run", model, toy_card()))


def test_values_that_are_no_probabilities(tmp_path):
    assert "not probabilities" in refusal(
        write_run(tmp_path / "nan", toy_model(rule=(0, 0, 0, float("nan"))), toy_card())
    )
    logits = toy_model()
    logits.graph.node[-1].op_type = "Identity"
    assert "not probabilities" in refusal(write_run(tmp_path / "logits", logits, toy_card()))


def test_the_other_kind(tmp_path):
    first, second = write_toy_run(tmp_path / "one", "classifier"), write_toy_run(tmp_path / "two")
    assert "stage 2" in refusal(first, "segmenter")
    assert "stage 1" in refusal(second, "classifier")
    photo = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(RetinalError, match="segmenter is needed"):
        segment(photo, first)
    with pytest.raises(RetinalError, match="classifier is needed"):
        classify(photo, second)


def test_random_bytes(tmp_path):
    """Damage anywhere in a model gives a refusal or a model, never a crash."""
    contents, rng = bytearray(toy_model().SerializeToString()), np.random.default_rng(0)
    for i in range(60):
        damaged = contents.copy()
        for place in rng.integers(0, len(damaged), 3):
            damaged[place] = rng.integers(256)
        run = write_run(tmp_path / str(i), bytes(damaged), toy_card())
        try:
            load_run(run)
        except RetinalError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("photo", ["eye.png", None])
def test_a_model_that_needs_too_much_memory_is_one_sentence(tmp_path, monkeypatch, photo):
    """As a network from a stranger may that computes for a long time in arrays which are never let go."""
    run = load_run(write_toy_run(tmp_path / "run"))

    def full(*_):
        raise MemoryError

    monkeypatch.setattr("retinal_tl.inference.run_network", full)
    eye = phantom(1, 200).photo
    if photo:
        write_png(tmp_path / photo, eye)
    with pytest.raises(RetinalError, match="needs more memory than there is") as caught:
        segment(tmp_path / photo if photo else eye, run)
    assert (photo or "The photo") in str(caught.value)


def test_a_size_whose_name_is_no_text(tmp_path):
    """Found by fuzzing: ONNX Runtime loads it, and stumbles only when it is asked for the shape."""
    model = toy_model()
    contents = model.SerializeToString()
    for name in (b"height", b"width"):
        contents = contents.replace(name, b"\xf4" + name[1:])
    folder = write_toy_run(tmp_path / "run")
    (folder / "model.onnx").write_bytes(contents)
    change_card(folder, files={"model.onnx": file_digest(folder / "model.onnx")})
    assert "is not a model that ONNX Runtime can load" in refusal(folder)
