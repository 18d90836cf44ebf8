"""Real exports in each format, loaded again and compared; what lies beside them works; nothing wrong is exported."""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from retinal_tl import export, formats
from retinal_tl.cards import Head, check_files, read_card, write_card
from retinal_tl.core import RetinalError, file_digest
from retinal_tl.export import add_export, check_tiles, compare_maps, export_run, map_thresholds
from retinal_tl.formats import FORMATS, open_format, write_format
from retinal_tl.inference import load_run, segment
from retinal_tl.preprocess import Preprocessing
from toy_runs import RULES, change_card, toy_card, toy_model, write_run, write_toy_run

HEAVY = ("tensorflow", "keras", "tf2onnx", "onnx", "jax")
WITHOUT = "import sys; sys.modules.update(dict.fromkeys({names!r}))\n"

pytestmark = [pytest.mark.slow, pytest.mark.long]


def real_run(folder, kind="segmenter", **changes):
    """A run with a real network, not trained, whose answers spread from 0 to 1; `changes` are of its card."""
    import keras

    from retinal_tl.model_files import build_model, save_model

    keras.utils.set_random_seed(3)
    usual = dict(
        encoder="vgg16_cbam",
        width=0.05,
        tile=160,
        licence="CC BY 4.0",
        limits=("Not trained.",),
        preprocessing=Preprocessing(diameter=480, clahe="rgb"),
    )
    card = toy_card(kind, **usual | changes)
    model, tiles = build_model(card), check_tiles(card).astype(np.float32)
    last = next(layer for layer in reversed(model.layers) if layer.weights)

    def scores():
        probability = np.asarray(model(tiles)).astype(float)
        return np.log(probability / (1 - probability))

    spread = scores().std()
    last.kernel.assign(last.kernel.numpy() * (2 / spread if spread > 1e-6 else 1))
    last.bias.assign([0.0])
    last.bias.assign([0.7 - scores().mean()])
    if kind == "segmenter":
        card = replace(card, thresholds=dict(exudates=widest_gap(np.asarray(model(tiles)))))
    folder.mkdir(parents=True)
    write_card(folder, replace(card, files=save_model(model, folder, card, tiles)))
    return folder


def add_file(run, name):
    """Make a file a part of a run: its card names it, with its digest."""
    card = read_card(run)
    write_card(run, replace(card, files=card.files | {name: file_digest(run / name)}))


def widest_gap(probability):
    """A threshold that is far from every probability, so that rounding on another machine moves no pixel across it."""
    levels = np.sort(probability, axis=None)
    levels = levels[levels.size * 2 // 5 : levels.size * 3 // 5]
    widest = np.diff(levels).argmax()
    return round(float(levels[widest : widest + 2].mean()), 6)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    pytest.importorskip("tensorflow")
    return real_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def exports(run_folder, tmp_path_factory):
    """The run in each format."""
    place = tmp_path_factory.mktemp("exports")
    return {format: export_run(run_folder, format, place / "new" / format) for format in FORMATS}


def refusal(*arguments):
    """The one sentence with which an export is refused."""
    with pytest.raises(RetinalError) as caught:
        export_run(*arguments)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith((".", "?")) and len(sentence) < 500, sentence
    return sentence


# ---- the formats


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_written_is_the_model(run_folder, exports, format):
    card, tiles = read_card(exports[format]), check_tiles(read_card(run_folder)).astype(np.float32)
    expected = load_run(run_folder).predict(tiles)
    assert 0.05 < (expected >= card.thresholds["exudates"]).mean() < 0.95  # a flat map would prove nothing
    found = open_format(format, exports[format] / FORMATS[format])(tiles)
    result = compare_maps(expected, found, map_thresholds(card))
    assert result["difference"] <= export.EXPORT_TOLERANCE and result["changed_pixels"] == 0
    about = card.export
    assert (about["format"], about["compared_with"], about["changed_pixels"]) == (format, "model.keras", 0)
    check_files(exports[format], card)
    assert {name.split("/")[0] for name in card.files} == {FORMATS[format]}
    own = read_card(run_folder)
    assert replace(card, files=own.files, export=None) == own  # all else is the run's


def test_sizes_are_free_but_for_litert(exports):
    wide = np.zeros((2, 64, 352, 3), np.float32)
    for format in ("onnx", "saved_model"):
        assert open_format(format, exports[format] / FORMATS[format])(wide).shape == (2, 64, 352, 1)
    with pytest.raises(ValueError):
        open_format("litert", exports["litert"] / "model.tflite")(wide)
    for format, stated in (
        ("onnx", "(n, height, width, 3)"),
        ("litert", "(1, 160, 160, 3)"),
        ("saved_model", "(n, height, width, 3)"),
    ):
        assert stated in (exports[format] / "README.md").read_text()


@pytest.mark.parametrize("format", FORMATS)
def test_readme_says_what_the_card_says(exports, format):
    text, card = (exports[format] / "README.md").read_text(), read_card(exports[format])
    threshold = card.thresholds["exudates"]
    assert 0.1 < threshold < 0.9
    for said in (
        "CC BY 4.0",
        "Not trained.",
        f"exudates {threshold:.6g}",
        "480 x 480",
        "8 x 8 tiles, clip limit 1.5",
        f"Largest difference of a probability: {card.export['difference']:.2g}.",
        "not a medical device",
        "no pixel differs",
        "overlap by 25%",
    ):
        assert said in text, said
    assert "{{" not in text and "{%" not in text and "\n\n\n\n" not in text
    assert np.array_equal(np.load(exports[format] / "example.npy"), check_tiles(card)[0])


def snippet(folder):
    """The Python in a README."""
    return (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]


def test_readme_of_saved_model_works(exports, monkeypatch, capsys):
    monkeypatch.chdir(exports["saved_model"])
    exec(snippet(exports["saved_model"]), names := {})
    assert np.allclose(names["answer"], open_format("onnx", exports["onnx"] / "model.onnx")(names["tile"]), atol=1e-4)
    assert "(1, 160, 160, 1)" in capsys.readouterr().out


def test_readme_of_litert_works(exports, monkeypatch, capsys):
    if not find_spec("ai_edge_litert"):  # TensorFlow's copy of the same class stands in for the package
        from types import SimpleNamespace

        engine = SimpleNamespace(Interpreter=formats._interpreter())
        monkeypatch.setitem(sys.modules, "ai_edge_litert", SimpleNamespace(interpreter=engine))
        monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", engine)
    monkeypatch.chdir(exports["litert"])
    exec(snippet(exports["litert"]), names := {})
    assert np.allclose(names["answer"], open_format("onnx", exports["onnx"] / "model.onnx")(names["tile"]), atol=1e-4)


def test_onnx_export_is_a_run(run_folder, exports):
    from retinal_tl.synthetic import phantom

    photo = phantom(2, 400, ("exudates",)).photo
    assert np.array_equal(segment(photo, exports["onnx"])["exudates"], segment(photo, run_folder)["exudates"])


@pytest.mark.parametrize("format", FORMATS)
def test_two_maps_in_one_network(tmp_path, format):
    """A small network with two lesions; each map keeps its place."""
    keras = pytest.importorskip("keras")
    photo = keras.Input((None, None, 3), name="photo")
    keras.utils.set_random_seed(0)
    model = keras.Model(
        photo, keras.layers.Conv2D(2, 3, padding="same", activation="sigmoid")(keras.layers.Rescaling(1 / 255)(photo))
    )
    tiles = check_tiles(toy_card()).astype(np.float32)
    write_format(model, format, tmp_path / FORMATS[format], 160)
    expected, found = np.asarray(model(tiles)), open_format(format, tmp_path / FORMATS[format])(tiles)
    limits = {lesion: widest_gap(expected[..., i]) for i, lesion in enumerate(("exudates", "hemorrhages"))}
    assert compare_maps(expected, found, limits)["changed_pixels"] == 0
    assert compare_maps(expected, found[..., ::-1], limits)["changed_pixels"] > 1000


def test_classifier_with_pooling_over_positions_in_litert(tmp_path):
    """Its tile is the whole crop, and its pooling is none of LiteRT's own operators."""
    pytest.importorskip("tensorflow")
    run = real_run(
        tmp_path / "run",
        kind="classifier",
        encoder="vgg16",
        head=Head("logsumexp"),
        preprocessing=Preprocessing(diameter=180, clahe="none"),
        threshold=None,
    )
    text = (export_run(run, "litert", tmp_path / "out") / "README.md").read_text()
    assert (
        "float32 (1, 192, 192, 3)" in text
        and "float32 (1, 1)" in text
        and "up to 192 x 192" in text
        and "no answer differs" in text
    )


# ---- without TensorFlow


def python(code, *arguments, cwd, without=HEAVY):
    """Run Python in which some packages cannot be imported."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(names=without) + code, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
    )


def test_onnx_needs_no_tensorflow(tmp_path):
    code = "from retinal_tl.export import export_run; export_run(sys.argv[1], sys.argv[2], sys.argv[3])"
    run = write_toy_run(tmp_path / "run")
    done = python(code, run, "onnx", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.onnx").read_bytes() == (run / "model.onnx").read_bytes()
    assert read_card(tmp_path / "out").export == dict(
        format="onnx", compared_with="model.onnx", tile=160, tiles=2, difference=0.0, changed_pixels=0
    )
    (run / "model.keras").write_bytes(b"numbers")
    add_file(run, "model.keras")
    done = python(code, run, "onnx", tmp_path / "again", cwd=tmp_path)
    assert done.returncode == 0, done.stderr  # with Keras weights that nobody can open
    for format in ("litert", "saved_model"):
        done = python(code, run, format, tmp_path / format, cwd=tmp_path)
        assert "pip install 'retinal_tl[train]'" in done.stderr and not (tmp_path / format).exists()


@pytest.mark.parametrize("shape", [(160, 160), (200, 330), (40, 161)])
def test_example_needs_onnxruntime_and_numpy_alone(tmp_path, shape):
    """Two lesions, other thresholds, a picture that is no whole number of tiles; and at most thirty lines."""
    card = toy_card(lesions=["exudates", "hemorrhages"], thresholds={"exudates": 0.7, "hemorrhages": 0.2})
    rules = [RULES[lesion] for lesion in card.lesions]
    (tmp_path / "model.onnx").write_bytes(toy_model(rule=rules).SerializeToString())
    text = export._example(card, 160)
    assert len(text.strip().split("\n")) <= 30 and max(map(len, text.split("\n"))) < 130
    (tmp_path / "example.py").write_text(text)
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    np.save(tmp_path / "picture.npy", picture)
    other = (*HEAVY, "retinal_tl", "cv2", "PIL", "scipy", "matplotlib")
    done = python(
        "import runpy; sys.argv = ['example.py', 'picture.npy']; runpy.run_path('example.py')",
        cwd=tmp_path,
        without=other,
    )
    assert done.returncode == 0, done.stderr
    weights, constants = np.float32([rule[:3] for rule in rules]).T, np.float32([rule[3] for rule in rules])
    scores = picture.astype(np.float32) @ weights + constants
    for i, (lesion, limit) in enumerate(map_thresholds(card).items()):
        mask = np.load(tmp_path / f"{lesion}_mask.npy")
        expected = 1 / (1 + np.exp(-scores[..., i].astype(float))) >= limit
        assert mask.shape == shape and (mask != expected).mean() < 1e-3 and 0.01 < expected.mean() < 0.99
        assert f"{lesion}: {mask.sum()} of {mask.size} pixels" in done.stdout


def test_example_of_a_classifier(tmp_path):
    folder = export_run(write_toy_run(tmp_path / "run", "classifier"), "onnx", tmp_path / "out")
    done = python(
        "import runpy; runpy.run_path('example.py')", cwd=folder, without=(*HEAVY, "retinal_tl", "cv2", "PIL")
    )
    assert done.returncode == 0, done.stderr
    probability = load_run(folder).predict(check_tiles(read_card(folder))[:1])[0, 0]
    assert done.stdout == f"any_lesion: {probability:.4f}, threshold 0.5\n"
    assert f"a lesion with the probability {probability:.4f}" in (folder / "README.md").read_text()


def test_a_network_of_one_size_says_so(tmp_path):
    text = (export_run(write_toy_run(tmp_path / "run", side=160), "onnx", tmp_path / "out") / "README.md").read_text()
    assert "float32 (n, 160, 160, 3)" in text and "multiples" not in text


# ---- what must not be written


def test_a_copy_that_differs_is_not_delivered(tmp_path, monkeypatch):
    run, opened = write_toy_run(tmp_path / "run"), export.open_format
    for change in (
        lambda map: np.clip(map + 2e-4, 0, 1),
        lambda map: 1 - map,
        lambda map: map * np.nan,
        lambda map: map[:, 1:],
    ):
        monkeypatch.setattr(
            export, "open_format", lambda *arguments: lambda pictures: change(opened(*arguments)(pictures))
        )
        assert "please report this" in refusal(run, "onnx", tmp_path / "out")
        assert os.listdir(tmp_path) == ["run"]
    monkeypatch.undo()
    probability = load_run(run).predict(check_tiles(read_card(run))).ravel()
    limit = float(probability[np.abs(probability - 0.5).argmin()])
    near = write_toy_run(tmp_path / "near", threshold=limit)
    monkeypatch.setattr(
        export,
        "open_format",
        lambda *arguments: lambda pictures: np.clip(opened(*arguments)(pictures) - np.float32(5e-5), 0, 1),
    )
    assert "pixels at the threshold" in refusal(
        near, "onnx", tmp_path / "out"
    )  # within the tolerance, but a mask changes


def test_an_interrupted_export_leaves_nothing(tmp_path, monkeypatch):
    run = write_toy_run(tmp_path / "run")

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "_readme", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_run(run, "onnx", tmp_path / "out")
    assert os.listdir(tmp_path) == ["run"]


def test_outputs_that_are_refused(tmp_path):
    run = write_toy_run(tmp_path / "run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file", "run"):
        assert "not an empty folder" in refusal(run, "onnx", tmp_path / name)
    assert "could not be written" in refusal(run, "onnx", tmp_path / "file" / "below")
    assert (tmp_path / "full" / "mine.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["file", "full", "run"]


def test_outputs_that_are_taken(tmp_path, monkeypatch):
    run = write_toy_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "linked")
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "new", "deep/er", "link", "with space and ü"):
        assert export_run(str(run), "onnx", name) == Path(name)
        assert load_run(name).card.lesions == ("exudates",)
    assert (tmp_path / "link").is_symlink() and not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_runs_that_are_refused(tmp_path):
    out = tmp_path / "out"
    assert "no such run" in refusal(tmp_path / "absent", "onnx", out)
    assert "did you mean 'litert'?" in refusal(tmp_path / "absent", "litert2", out)
    assert "choose from onnx, litert, saved_model" in refusal(tmp_path / "absent", "pickle", out)
    run = write_toy_run(tmp_path / "run")
    assert "holds no model.keras" in refusal(run, "litert", out)
    contents = (run / "model.onnx").read_bytes()
    (run / "model.onnx").write_bytes(contents + b"\0")
    assert "digest differs" in refusal(run, "onnx", out)
    (run / "model.onnx").unlink()
    assert "half-written" in refusal(run, "onnx", out)
    assert "half-written" in refusal(write_toy_run(tmp_path / "unfinished", status="training"), "onnx", out)
    sharpened = dict(diameter=256, clahe="rgb", clip_limit=1.5, tiles=8, sharpen=1)
    strange = change_card(write_toy_run(tmp_path / "strange"), preprocessing=sharpened)
    assert "settings" in refusal(strange, "onnx", out)
    nothing = write_run(tmp_path / "nothing", b"", toy_card())
    write_card(nothing, replace(read_card(nothing), files={}))
    assert "holds no model.keras" in refusal(nothing, "onnx", out)
    assert not out.exists()


def test_keras_weights_that_do_not_fit_the_card(tmp_path):
    pytest.importorskip("tensorflow")
    run = write_toy_run(tmp_path / "run", encoder="vgg16", width=0.05)
    (run / "model.keras").write_bytes(b"PK\3\4 no such archive")
    add_file(run, "model.keras")
    assert "is not a file of weights that can be read safely" in refusal(run, "saved_model", tmp_path / "out")


def test_words_of_a_card_stay_words(tmp_path):
    """A card is somebody else's: its text can neither break out of its line nor into the program."""
    evil = "x\n# Owned\n```python\nimport os\n```\n'''\"\"\""
    evil += "{{ 7 * 7 }}{% raw %}"
    run = write_toy_run(tmp_path / "run", name=evil, licence=evil, limits=(evil, "b"))
    folder = export_run(run, "onnx", tmp_path / "out")
    text = (folder / "README.md").read_text()
    assert not [line for line in text.split("\n") if line.startswith(("# Owned", "```"))]
    assert text.count("{{ 7 * 7 }}{% raw %}") == 3  # of name, licence and limit: none was read as a template
    assert "Owned" not in (folder / "example.py").read_text()


def test_another_backend(run_folder, tmp_path, monkeypatch):
    """On JAX the ONNX file is still copied; the others are told what to do."""
    import keras

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert read_card(export_run(run_folder, "onnx", tmp_path / "onnx")).export["compared_with"] == "model.onnx"
    for format in ("litert", "saved_model"):
        assert "KERAS_BACKEND=tensorflow" in refusal(run_folder, format, tmp_path / format)


# ---- the subcommand


def test_subcommand(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    add_export(parser.add_subparsers())
    run = write_toy_run(tmp_path / "run")
    arguments = parser.parse_args(
        ["export", "--model", str(run), "--format", "onnx", "--output", str(tmp_path / "out")]
    )
    assert arguments.work(arguments) == 0
    assert "largest difference 0, " in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "card.json").read_text())["export"]["format"] == "onnx"
    assert parser.parse_args(["export", "--format", "onnx", "--output", "out"]).model == "builtin"
    with pytest.raises(SystemExit):
        parser.parse_args(["export", "--model", str(run), "--format", "pickle", "--output", str(tmp_path / "out")])


def test_the_parsers_import_nothing_heavy(tmp_path):
    code = (
        "import argparse; from retinal_tl.export import add_export; from retinal_tl.app import add_app;"
        "from retinal_tl.screening import add_classify, add_segment;"
        "commands = argparse.ArgumentParser().add_subparsers();"
        "add_export(commands); add_app(commands); add_segment(commands); add_classify(commands)"
    )
    done = python(
        code,
        cwd=tmp_path,
        without=("numpy", "cv2", "onnxruntime", "keras", "tensorflow", "gradio", "PIL", "fastjsonschema"),
    )
    assert done.returncode == 0, done.stderr
