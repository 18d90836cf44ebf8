"""The same run on other engines: the same answers, the engine said, and one sentence where that cannot be."""

import csv
import importlib.util
import io
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import onnxruntime
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from retinal_tl import engines
from retinal_tl.command import main
from retinal_tl.core import RetinalError
from retinal_tl.engines import engines_here, find_engine, on_engine
from retinal_tl.inference import classify, load_run, segment
from retinal_tl.registries import ENGINES
from retinal_tl.synthetic import phantom
from toy_runs import write_toy_run


class Core:
    """OpenVINO, as far as it is asked, computed by ONNX Runtime; `gain` makes its answers wrong."""

    capabilities = ["FP32"]
    gain = 1.0
    fails = ""
    compiled: list = []

    def get_property(self, device, name):
        assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
        return self.capabilities

    def read_model(self, file):
        assert isinstance(file, io.BytesIO)
        return file.getvalue()

    def compile_model(self, contents, device, options):
        if self.fails:
            raise RuntimeError(self.fails)
        Core.compiled.append(options)
        session = onnxruntime.InferenceSession(contents, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        class Compiled:
            inputs = [SimpleNamespace(any_name=name)]

            def __call__(self, given):
                return [Core.gain * session.run(None, given)[0]]

        return Compiled()


@pytest.fixture
def openvino(monkeypatch):
    """An OpenVINO that is there, whether it is installed or not."""
    for name, value in dict(capabilities=["FP32"], gain=1.0, fails="", compiled=[]).items():
        monkeypatch.setattr(Core, name, value)
    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Core=Core, __spec__=SimpleNamespace()))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace())
    return Core


@pytest.fixture
def eye(tmp_path, monkeypatch):
    """A folder with one good photograph."""
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("eye.png", phantom(3, size=600).photo[..., ::-1])
    return Path("eye.png")


def rows_of(folder):
    with open(Path(folder) / "report.csv", newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def test_a_run_moves_and_answers_as_before(openvino, eye):
    run = load_run(write_toy_run("run"))
    moved = on_engine(run, "openvino")
    assert (run.engine, moved.engine) == ("onnxruntime", "openvino")
    np.testing.assert_allclose(segment(eye, moved)["exudates"], segment(eye, run)["exudates"], atol=1e-6)
    assert openvino.compiled[0]["INFERENCE_PRECISION_HINT"] == "f32"
    assert on_engine(moved, "openvino") is moved and len(openvino.compiled) == 1
    assert on_engine(run, "auto") is run and on_engine(run, "onnxruntime") is run


def test_bfloat16_is_used_where_the_processor_has_it_and_somebody_asked(openvino, eye):
    run = load_run(write_toy_run("run"))
    with pytest.raises(RetinalError, match="this processor does not multiply bfloat16"):
        on_engine(run, "openvino_bfloat16")
    openvino.capabilities = ["FP32", "BF16"]
    assert on_engine(run, "openvino_bfloat16").engine == "openvino_bfloat16"
    on_engine(run, "openvino")
    assert [one["INFERENCE_PRECISION_HINT"] for one in openvino.compiled] == ["bf16", "f32"]


def test_a_run_that_asks_others_moves_them(openvino, eye):
    run = load_run("builtin", "classifier")
    moved = on_engine(run, "openvino")
    assert moved.engine == moved.members[0].engine == "openvino" and len(openvino.compiled) == len(run.members)
    assert classify(eye, moved) == pytest.approx(classify(eye, run), abs=1e-5)


def test_an_engine_that_answers_otherwise_is_refused(openvino, eye, capsys):
    openvino.gain = 0.5
    with pytest.raises(RetinalError, match="gives other answers with openvino"):
        on_engine(load_run(write_toy_run("run")), "openvino")
    assert main(["segment", "eye.png", "--model", "run", "--output", "maps", "--engine", "openvino"]) == 2
    said = capsys.readouterr().err
    assert "--engine onnxruntime does without it" in said and "Traceback" not in said


def test_an_engine_that_cannot_load_a_network_is_one_sentence(openvino, eye):
    openvino.fails = "Unsupported operation:\nof many lines"
    with pytest.raises(RetinalError, match=r"model.onnx cannot be used with openvino \(Unsupported operation:\)"):
        on_engine(load_run(write_toy_run("run")), "openvino")


def test_what_is_not_installed_is_said_with_the_way_to_get_it(monkeypatch, eye, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    write_toy_run("run")
    assert main(["segment", "eye.png", "--model", "run", "--output", "maps", "--engine", "openvino"]) == 2
    assert "pip install 'retinal_tl[openvino]'" in capsys.readouterr().err
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(RetinalError, match="onnxruntime-gpu"):
        find_engine("cuda")
    assert engines_here() == ("onnxruntime",) and find_engine() == "onnxruntime"


def test_a_gpu_that_is_not_there_is_one_sentence(monkeypatch, eye):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(RetinalError, match="cannot be used with cuda"):
        on_engine(load_run(write_toy_run("run")), "cuda")


def test_the_engine_is_in_every_row_and_another_one_does_it_again(openvino, eye, capsys):
    write_toy_run("run")
    command = ["segment", "eye.png", "--model", "run", "--output", "maps", "--engine"]
    assert main([*command, "onnxruntime"]) == 0
    assert {row["engine"] for row in rows_of("maps")} == {"onnxruntime"}
    assert "Computed with" not in Path("maps/report.html").read_text()
    first = Path("maps/eye_exudates_mask.png").stat().st_mtime_ns
    assert main([*command, "onnxruntime"]) == 0 and Path("maps/eye_exudates_mask.png").stat().st_mtime_ns == first
    assert main([*command, "openvino"]) == 0
    assert {row["engine"] for row in rows_of("maps")} == {"openvino"}
    assert "Computed with openvino" in Path("maps/report.html").read_text()
    assert main(["classify", "eye.png", "--output", "answers", "--engine", "openvino"]) == 0
    assert rows_of("answers")[0]["engine"] == "openvino"


def test_engines_have_functions_and_say_what_they_need():
    assert list(ENGINES)[:2] == ["cuda", "onnxruntime"]
    for name in ENGINES:
        assert callable(ENGINES[name]) and set(ENGINES.needs(name)) == {"package", "provider", "install"}


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_openvino_itself_answers_as_onnx_runtime_does(eye):
    run = load_run("builtin-fast")
    moved = on_engine(run, "openvino")
    before, after = segment(eye, run), segment(eye, moved)
    for lesion in before:
        assert np.abs(before[lesion] - after[lesion]).mean() < 1e-3
    assert engines._difference(run, moved) <= engines._ALIKE
