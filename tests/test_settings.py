"""Every parameter is checked before any work starts, in one sentence, and without Keras."""

import json
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import numpy as np
import pytest

from retinal_tl import backends
from retinal_tl import settings as module
from retinal_tl.backends import PRECISIONS, has_accelerator, keras_backend, resolved_precision
from retinal_tl.cards import FLIPS
from retinal_tl.core import LESIONS, RetinalError
from retinal_tl.registries import ENCODERS, LOSSES, POOLINGS, TRANSFERS
from retinal_tl.settings import (
    PHOTO_LABELS,
    PRESETS,
    STAGES,
    Stage1,
    Stage2,
    choices,
    settings_for,
    with_encoder,
)

NUMBERS = [(stage, name) for stage in (Stage1, Stage2) for name in module._RANGES if name in stage.__dataclass_fields__]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10**400, "three", True, [3], 1j])
def test_what_is_no_number_gets_one_sentence_with_the_range(value):
    """`epochs=nan` and `inf` raised bare errors of Python."""
    for stage, name in NUMBERS:
        with pytest.raises(RetinalError, match=rf"^{name} is .*; give a (whole )?number from .* to .*\.$"):
            settings_for(stage, {name: value})


def test_the_ends_of_a_range_are_in_it_and_what_lies_past_them_is_not(monkeypatch):
    monkeypatch.setattr(module, "check_processes", lambda *given: None)  # what fits what is another question
    for stage, name in NUMBERS:
        low, high = module._RANGES[name]
        others = dict(start_run="runs/a", lesion_share=0) if name == "hard_negative_share" else {}
        for value, past in ((low, low - 1), (high, 2 * high + 1)):
            assert getattr(settings_for(stage, others | {name: value}), name) == value
            with pytest.raises(RetinalError, match=f"^{name} is "):
                settings_for(stage, others | {name: past})
        assert getattr(settings_for(stage, {name: None}), name) == getattr(settings_for(stage, {}), name)


def test_whole_numbers_are_whole():
    made = settings_for(Stage2, dict(epochs=3.0, batch_size=np.int64(4), width=1, learning_rate=np.float32(0.5)))
    assert [made.epochs, made.batch_size, made.width, made.learning_rate] == [3, 4, 1.0, 0.5]
    assert [type(value) for value in (made.epochs, made.batch_size, made.width, made.learning_rate)] == [
        int,
        int,
        float,
        float,
    ]
    with pytest.raises(RetinalError, match="whole number from 1 to 100,000"):
        settings_for(Stage2, dict(epochs=2.5))


def test_a_folder_whose_name_is_a_number():
    """`-p data_root 2019` was "not a word"."""
    made = settings_for(Stage2, dict(data="idrid+csv", data_root=[2019, Path("b+c")], csv=7, output=2.5, stage1_run=1))
    assert made.data_root == ("2019", "b+c")
    assert (made.csv, made.output, made.stage1_run) == ("7", "2.5", "1")
    assert settings_for(Stage1, dict(data_root=2019)).data_root == "2019"
    for name, value, wanted in (("data_root", True, "a path"), ("output", ["runs"], "a path"), ("csv", {}, "a path")):
        with pytest.raises(RetinalError, match=f"{name} is .*; give {wanted}"):
            settings_for(Stage2, {name: value})
    with pytest.raises(RetinalError, match="give a path"):
        settings_for(Stage2, dict(data_root=["a", None]))
    with pytest.raises(RetinalError, match="give a word"):
        settings_for(Stage2, dict(encoder=["vgg16"]))


@pytest.mark.parametrize("value, meant", [(True, True), (False, False), ("true", True), ("False", False)])
def test_true_and_false_are_understood_as_words(value, meant):
    assert settings_for(Stage1, dict(resume=value)).resume is meant
    assert settings_for(Stage2, dict(flips=value)).flips == ("all" if meant else "none")


@pytest.mark.parametrize("value", ["yes", 1, 0, "", [], float("nan")])
def test_nothing_else_is_true_or_false(value):
    with pytest.raises(RetinalError, match="allow_leaks is .*; give true or false"):
        settings_for(Stage1, dict(allow_leaks=value))


def test_flips():
    assert [settings_for(Stage2, dict(flips=word)).flips for word in FLIPS] == list(FLIPS)
    assert {preset: table["stage2"]["flips"] for preset, table in PRESETS.items()} == dict(
        demo="half_turn", paper="none", best="all"
    )
    with pytest.raises(RetinalError, match="half_turn"):
        settings_for(Stage2, dict(flips="half turn"))


def test_old_words_are_answered_with_the_new_ones():
    for old, new in (("alarm_share", "hard_negative_share"), ("teacher_run", "pseudo_label_run")):
        with pytest.raises(RetinalError, match=f"^{old} is called {new} now.$"):
            settings_for(Stage2, {old: None})
        with pytest.raises(RetinalError, match="no parameter of stage 1"):
            settings_for(Stage1, {old: 1})


def test_lesions():
    assert settings_for(Stage2, {}).lesions == ("exudates",)
    made = settings_for(Stage2, dict(lesion="hemorrhages+exudates+exudates"))
    assert made.lesion == "exudates+hemorrhages" and made.lesions == ("exudates", "hemorrhages")
    assert settings_for(Stage2, dict(lesion="all")).lesions == LESIONS
    with pytest.raises(RetinalError, match="There is no lesion ''"):
        settings_for(Stage2, dict(lesion="exudates+"))


def test_losses_are_looked_up_one_by_one_and_by_stage():
    assert settings_for(Stage2, dict(loss="bce + dice")).loss == "bce+dice"
    with pytest.raises(RetinalError, match="did you mean 'dice'"):
        settings_for(Stage2, dict(loss="bce+dise"))
    with pytest.raises(RetinalError, match=r"'dice' needs outlines.*choose from bce, weighted_bce"):
        settings_for(Stage1, dict(loss="bce+dice"))


def test_every_word_is_checked_against_its_registry():
    for name, registry in (("encoder", ENCODERS), ("pooling", POOLINGS), ("transfer", TRANSFERS), ("loss", LOSSES)):
        assert choices(name) is registry
    for stage, name in ((Stage1, "encoder"), (Stage1, "pooling"), (Stage2, "transfer"), (Stage2, "loss")):
        with pytest.raises(RetinalError, match=f"There is no {name} 'xyzzy'; choose from"):
            settings_for(stage, {name: "xyzzy"})
    for preset in ("clahe", "augmentation", "precision", "preset", "data"):
        with pytest.raises(RetinalError, match="'xyzzy'; choose from"):
            settings_for(Stage2, {preset: "xyzzy"})


def test_an_encoder_of_your_own_is_checked_like_the_others():
    ENCODERS.add("of_mine", lambda photo, width, l2, dtype: [photo], side_multiple=24, photo_skip=False, attention=None)
    try:
        assert settings_for(Stage2, dict(encoder="of_mine", patch_size=72)).patch_size == 72
        with pytest.raises(RetinalError, match="multiples of 24, so give 48 or 72"):
            settings_for(Stage2, dict(encoder="of_mine", patch_size=64))
    finally:
        ENCODERS.remove("of_mine")
    with pytest.raises(RetinalError, match="no encoder 'of_mine'"):
        settings_for(Stage2, dict(encoder="of_mine"))


def test_patches_fit_the_encoder_that_the_run_will_have():
    asked = settings_for(Stage2, dict(encoder="vgg16", patch_size=48))
    assert with_encoder(asked, "vgg16_cbam", 0.5).width == 0.5
    with pytest.raises(RetinalError, match="resnet50 takes multiples of 32, so give 32 or 64"):
        with_encoder(asked, "resnet50", 1.0)
    with pytest.raises(RetinalError, match="image_size is 100; vgg16 takes multiples of 16"):
        settings_for(Stage1, dict(pooling="flatten", encoder="vgg16", image_size=100))
    assert settings_for(Stage1, dict(pooling="average", encoder="vgg16", image_size=100)).image_size == 100


def test_shares_of_the_patches():
    with pytest.raises(RetinalError, match="give a start_run"):
        settings_for(Stage2, dict(hard_negative_share=0.2))
    with pytest.raises(RetinalError, match="lesion_share 0.5 and hard_negative_share 0.6"):
        settings_for(Stage2, dict(hard_negative_share=0.6, start_run="runs/a"))
    assert settings_for(Stage2, dict(hard_negative_share=0.5, start_run="runs/a")).hard_negative_share == 0.5


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_leaves_nothing_open(preset):
    for name, stage in STAGES.items():
        made = settings_for(stage, dict(preset=preset))
        open_fields = {field.name for field in fields(stage) if field.default is None}
        assert set(PRESETS[preset][name]) <= open_fields
        left = {field for field in open_fields if getattr(made, field) is None}
        assert left <= {"data_root", "csv", "split_seed", "fold", "start", "start_file", "coordinator"} | {
            "stage1_run",
            "start_run",
            "pseudo_label_run",
            "training_photos",
        }
        with pytest.raises(FrozenInstanceError):
            made.epochs = 1
    made = settings_for(Stage1, dict(preset=preset) | PHOTO_LABELS[preset])
    assert made.labels == "photo"


def test_nothing_heavy_is_loaded():
    """Names of losses were looked up in a module that imports Keras, and `auto` was resolved by asking TensorFlow."""
    code = """
import sys
import retinal_tl.backends
import retinal_tl.settings as settings
light = {"keras", "tensorflow", "jax", "torch", "cv2", "numpy"} & set(sys.modules)
for stage in (settings.Stage1, settings.Stage2):
    settings.settings_for(stage, dict(preset="paper", loss="bce+weighted_bce"))
retinal_tl.backends.resolved_precision()
print(sorted(light), sorted({"keras", "tensorflow", "jax", "torch"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine made up: which files and modules there are, and what the processor says of itself."""
    for name in ("KERAS_BACKEND", "CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS", "JAX_PLATFORM_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    for name in ("keras", "nvidia", "nvidia.cudnn", "jax_plugins"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(backends, "_NVIDIA", (str(tmp_path / "nvidiactl"),))
    monkeypatch.setattr(backends, "_CPUINFO", str(tmp_path / "cpuinfo"))
    monkeypatch.setattr(backends, "find_library", lambda name: None)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    yield tmp_path
    sys.modules.pop("nvidia", None)  # which a look for `nvidia.cudnn` leaves


def install(machine, *modules):
    for name in modules:
        (machine / "packages" / name).mkdir(parents=True)
        (machine / "packages" / name / "__init__.py").touch()


def test_the_precision_of_a_processor(machine):
    assert {resolved_precision("auto", backend) for backend in ("tensorflow", "jax", "torch")} == {"float32"}
    for flags, wanted in (("avx2 fma", "float32"), ("avx512_bf16", "mixed_bfloat16"), ("amx_bf16", "mixed_bfloat16")):
        (machine / "cpuinfo").write_text(f"flags : {flags} sse\n")
        assert resolved_precision("auto", "tensorflow") == wanted
        assert resolved_precision("auto", "jax") == "float32"  # which does not use those instructions
    for precision in PRECISIONS[1:]:
        assert resolved_precision(precision, "tensorflow") == precision


def test_the_precision_of_a_gpu(machine, monkeypatch):
    install(machine, "nvidia/cudnn", "jax_plugins/xla_cuda13")
    backends = ("tensorflow", "jax", "torch")
    assert not any(map(has_accelerator, backends))  # packages without a GPU
    (machine / "nvidiactl").touch()
    assert [has_accelerator(backend) for backend in backends] == [True, True, False]
    assert resolved_precision("auto", "jax") == resolved_precision("auto", "tensorflow") == "mixed_bfloat16"
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert not any(map(has_accelerator, backends))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert [has_accelerator(backend) for backend in backends] == [True, False, False]


def test_a_gpu_without_the_packages_for_it(machine):
    (machine / "nvidiactl").touch()
    assert not has_accelerator("tensorflow") and not has_accelerator("jax")
    assert resolved_precision("auto", "tensorflow") == "float32"


@pytest.mark.parametrize(
    "text, backend", [('{"backend": "jax"}', "jax"), ("{}", "tensorflow"), ("{", "tensorflow"), ("[]", "tensorflow")]
)
def test_the_backend_that_keras_would_take(machine, monkeypatch, text, backend):
    assert keras_backend() == "tensorflow"
    (machine / "keras.json").write_text(text)
    assert keras_backend() == backend
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert keras_backend() == "torch"


@pytest.mark.slow
def test_the_backend_is_that_of_keras(tmp_path):
    """The same before and after Keras is loaded, wherever it finds it written."""
    (tmp_path / "keras.json").write_text(json.dumps(dict(backend="jax")))
    code = """
from retinal_tl.backends import keras_backend
print(keras_backend())
import keras
print(keras.backend.backend(), keras_backend())
"""
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    for more, backend in ((dict(KERAS_HOME=str(tmp_path)), "jax"), (dict(KERAS_BACKEND="jax"), "jax")):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment | more
        )
        assert done.stdout.split() == [backend] * 3
