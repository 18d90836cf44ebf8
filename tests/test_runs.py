"""The two stages as a user starts them: papermill, the command on a terminal, a kill in the middle, two at once."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import cv2
import nbformat
import numpy as np
import pytest

from retinal_tl.cards import check_files, read_card
from retinal_tl.core import RetinalError
from retinal_tl.images import write_png
from retinal_tl.leakage import open_signatures
from retinal_tl.masks import read_mask
from retinal_tl.plans import plan
from retinal_tl.settings import PRESETS, Stage1, Stage2
from retinal_tl.synthetic import write_synthetic

pytestmark = [pytest.mark.slow, pytest.mark.long]
REPOSITORY = Path(__file__).resolve().parent.parent
TINY = dict(
    data="folder", width=0.05, encoder="vgg16", diameter=160, batch_size=4, steps_per_epoch=3, precision="float32"
)
STAGE1 = TINY | dict(image_size=64, epochs=1)
STAGE2 = TINY | dict(patch_size=64, epochs=3, lesion="hemorrhages", transfer="finetune")


def silent(line: str) -> None:
    """A report that nobody reads."""


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("data") / "phantoms", count=24, size=160, seed=1, workers=2)


@pytest.fixture(scope="module")
def stage1(phantoms, tmp_path_factory) -> Path:
    from retinal_tl.runs import run_stage1

    return run_stage1(silent, **STAGE1, data_root=str(phantoms), output=str(tmp_path_factory.mktemp("runs")))


def words(parameters: dict) -> list[str]:
    return [word for name, value in parameters.items() for word in ("-p", name, str(value))]


def papermill(notebook: str, output: Path, parameters: dict, cwd: Path) -> subprocess.CompletedProcess:
    source = str(REPOSITORY / "nbs" / notebook)
    command = [sys.executable, "-m", "papermill", source, str(output), *words(parameters)]
    # a kernel that believes that it is tested keeps its streams in another way
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def papermill_run(phantoms, stage1, tmp_path_factory) -> tuple[Path, str]:
    """The executed notebook of stage 2, beside the folder `runs` that it has written, and what was said meanwhile."""
    folder = tmp_path_factory.mktemp("papermill")
    parameters = STAGE2 | dict(data_root=phantoms, stage1_run=stage1, output=folder / "runs")
    done = papermill("run_stage2.ipynb", folder / "executed.ipynb", parameters, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "executed.ipynb", done.stdout + done.stderr


def test_papermill_runs_stage2(papermill_run, stage1):
    executed, _ = papermill_run
    [run] = (executed.parent / "runs").glob("stage2-*")
    card = read_card(run)
    check_files(run, card)
    assert set(card.files) == {"model.keras", "model.onnx"} and card.transfer == "finetune"
    assert not set(card.split.validation) & set(read_card(stage1).split.training)
    pictures = ("examples", "hemorrhages_precision_recall")
    for name in ("history.csv", "curves.png", "checkpoint/last.npz", *(f"figures/{name}.png" for name in pictures)):
        assert (run / name).stat().st_size
    outputs = [output for cell in nbformat.read(executed, 4).cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 4
    assert any("AUPR" in str(output.get("data", {}).get("text/markdown", "")) for output in outputs)


def test_papermill_tells_how_far_it_is(papermill_run):
    _, said = papermill_run
    for part in ("Stage 2, hemorrhages", "epoch 1/3", "epoch 3/3", "AUPR"):
        assert part in said, said[-2000:]


def test_papermill_refuses_a_wrong_name(tmp_path):
    done = papermill("run_stage2.ipynb", tmp_path / "executed.ipynb", dict(lesoin="hemorrhages"), tmp_path)
    assert done.returncode != 0 and "did you mean 'lesion'" in done.stderr
    assert not (tmp_path / "runs").exists() and not (tmp_path / "data").exists()


@pytest.mark.parametrize("notebook, stage", [("run_stage1", Stage1), ("run_stage2", Stage2)])
def test_a_run_notebook_has_the_defaults_of_its_stage(notebook, stage):
    cells = nbformat.read(REPOSITORY / "nbs" / f"{notebook}.ipynb", 4).cells
    [cell] = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    variables: dict = {}
    exec(cell.source, variables)
    variables.pop("__builtins__")
    assert variables == {field.name: field.default for field in fields(stage)}


def stage2_process(phantoms: Path, stage1: Path, output: Path) -> subprocess.Popen:
    parameters = STAGE2 | dict(data_root=str(phantoms), stage1_run=str(stage1), output=str(output))
    call = f"run_stage2(lambda line: print(line, flush=True), **{parameters!r})"
    code = f"from retinal_tl.runs import run_stage2; {call}"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_run_on_jax_is_judged_and_ends(phantoms, tmp_path):
    """There is no network file before it is judged, as TensorFlow has one."""
    parameters = STAGE2 | dict(data_root=str(phantoms), output=str(tmp_path), transfer="scratch", epochs=1, width=0.02)
    code = f"from retinal_tl.runs import run_stage2; run_stage2(lambda line: print(line, flush=True), **{parameters!r})"
    jax = os.environ | dict(KERAS_BACKEND="jax", JAX_PLATFORMS="cpu")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=jax)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-1000:]
    [run] = tmp_path.glob("stage2-*")
    card = read_card(run)  # a finished one
    assert card.training.backend == "jax" and 0 < card.metrics["validation"]["hemorrhages"]["aupr"] <= 1
    check_files(run, card)


def history(run: Path) -> list[dict]:
    with open(run / "history.csv", newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def test_a_killed_run_goes_on_and_ends_as_that_of_papermill(phantoms, stage1, papermill_run, tmp_path):
    broken = stage2_process(phantoms, stage1, tmp_path / "broken")
    for line in broken.stdout:
        if line.startswith("epoch 1/3:"):
            break
    broken.send_signal(signal.SIGKILL)
    broken.wait()
    broken.stdout.close()
    [run] = (tmp_path / "broken").glob("stage2-*")
    assert read_card(run, finished=False).status == "training" and not (run / "model.onnx").exists()

    again = stage2_process(phantoms, stage1, tmp_path / "broken")
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0 and "goes on" in said and "epoch 1/3:" not in said, said
    [other] = (papermill_run[0].parent / "runs").glob("stage2-*")
    assert run.name == other.name and history(run) == history(other)
    first, second = read_card(run), read_card(other)
    assert first.metrics == second.metrics and first.thresholds == second.thresholds
    assert first.files["model.keras"] == second.files["model.keras"]  # to the byte


def test_two_equal_runs_at_once_are_made_once(phantoms, stage1, tmp_path):
    two = [stage2_process(phantoms, stage1, tmp_path / "both") for _ in range(2)]
    said = [process.communicate(timeout=500)[0] for process in two]
    assert [process.returncode for process in two] == [0, 0], said
    waiting = [text for text in said if "is being made by process" in text]
    assert len(waiting) == 1 and "there already, finished" in waiting[0], said
    assert sum(text.count("epoch 1/3:") for text in said) == 1
    [run] = (tmp_path / "both").glob("stage2-*")
    check_files(run, read_card(run))


def test_a_run_is_what_it_learned_from(phantoms, tmp_path):
    """With every mask dilated, the old model was handed out as 'there already, finished'."""
    from retinal_tl.runs import run_stage2

    settings = STAGE2 | dict(epochs=1, steps_per_epoch=1, transfer="scratch", output=str(tmp_path / "runs"))
    first = run_stage2(silent, **settings, data_root=str(phantoms))
    moved = shutil.copytree(phantoms, tmp_path / "moved here")
    said: list[str] = []
    assert run_stage2(said.append, **settings, data_root=str(moved)) == first
    assert any("there already" in line for line in said)
    for path in (moved / "masks" / "hemorrhages").iterdir():
        dilated = cv2.dilate(read_mask(path).astype(np.uint8) * 255, np.ones((3, 3)))
        write_png(path, dilated)
    second = run_stage2(silent, **settings, data_root=str(moved))
    assert second != first and read_card(first).run_id != read_card(second).run_id


def test_nothing_finished_is_deleted_by_a_run(phantoms, tmp_path):
    from retinal_tl.runs import run_stage1

    settings = STAGE1 | dict(data_root=str(phantoms), output=str(tmp_path / "runs"), steps_per_epoch=1)
    folder = run_stage1(silent, **settings)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(RetinalError, match="remove that folder yourself"):
        run_stage1(silent, **settings, resume=False)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | dict(status="training")))
    assert run_stage1(silent, **settings, resume=False) == folder  # an unfinished one begins anew
    assert read_card(folder).status == "finished"


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_the_guard_does_not_switch_itself_off(phantoms, stage1, tmp_path, damage):
    copy = shutil.copytree(stage1, tmp_path / "runs" / stage1.name)
    kept = copy / "signatures.npz"
    kept.unlink() if damage == "missing" else kept.write_bytes(kept.read_bytes()[:100])
    asked = STAGE2 | dict(data_root=str(phantoms), stage1_run=str(copy), output=str(tmp_path / "runs"))
    with pytest.raises(RetinalError, match=r"Nobody can tell which eyes .* has learned from"):
        plan("stage2", asked)
    allowed = plan("stage2", asked | dict(allow_leaks=True))
    assert allowed.unguarded == (read_card(stage1).name,) and "LEAKS" in str(allowed)


def test_a_card_says_how_its_model_was_trained(stage1):
    import keras

    import retinal_tl

    card = read_card(stage1)
    assert card.training.backend == keras.backend.backend() and card.training.precision == "float32"
    assert card.versions["retinal_tl"] == retinal_tl.__version__
    for part, name in (("training", "signatures.npz"), ("validation", "validation_signatures.npz")):
        assert sorted(open_signatures(stage1 / name).names) == sorted(getattr(card.split, part)), part


@pytest.mark.parametrize("preset", list(PRESETS))
def test_each_preset_runs(phantoms, tmp_path, preset):
    from retinal_tl.runs import run_stage2

    few = dict(width=0.05, diameter=160, epochs=1, steps_per_epoch=2, batch_size=2)
    data = dict(data="folder", data_root=str(phantoms), output=str(tmp_path / "runs"), preset=preset)
    from retinal_tl.runs import run_stage1

    first = run_stage1(silent, **data, **few, image_size=64)
    second = run_stage2(
        silent, **data, **{name: value for name, value in few.items() if name != "width"}, patch_size=64
    )
    cards = read_card(first), read_card(second)
    assert [card.status for card in cards] == ["finished", "finished"]
    chosen = PRESETS[preset]["stage2"]
    assert cards[1].training.settings["loss"] == chosen["loss"] and cards[1].preprocessing.clahe == chosen["clahe"]
    assert cards[1].parents[0].run_id == cards[0].run_id


def test_a_diseased_photo_without_masks_has_no_healthy_patches(phantoms, tmp_path):
    graded = write_synthetic(tmp_path / "graded", count=6, size=160, seed=50, workers=1)
    photos = sorted((graded / "images").iterdir())
    rows = "".join(f"images/{path.name},{i % 2}\n" for i, path in enumerate(photos))
    (graded / "labels.csv").write_text("image,lesion\n" + rows)
    asked = STAGE1 | dict(data="folder+csv", labels="patch", csv="labels.csv", output=str(tmp_path / "runs"))
    split = plan("stage1", asked | dict(data_root=f"{phantoms}+{graded}")).split
    used = {one.name for part in (split.training, split.validation) for one in part if one.source == "csv"}
    assert used == {f"csv:images/{path.name}" for i, path in enumerate(photos) if i % 2 == 0}


def test_without_masks_squares_have_the_label_of_their_photo(phantoms, tmp_path):
    photos = sorted((phantoms / "images").iterdir())
    rows = "".join(f"images/{path.name},{i % 2}\n" for i, path in enumerate(photos))
    (tmp_path / "labels.csv").write_text("image,lesion\n" + rows)
    small = dict(width=0.05, diameter=160, image_size=64, batch_size=2, epochs=1, steps_per_epoch=1)
    data = dict(data="csv", data_root=str(phantoms), csv=str(tmp_path / "labels.csv"), output=str(tmp_path / "runs"))
    planned = plan("stage1", small | data)
    assert planned.settings.labels == "photo" and any("no masks" in note for note in planned.notes)
    with pytest.raises(RetinalError, match="have no masks"):
        plan("stage1", small | data | dict(labels="patch"))


@pytest.mark.skipif(shutil.which("script") is None, reason="needs script(1) for a terminal")
def test_the_command_works_on_a_terminal(phantoms, stage1, tmp_path):
    parameters = STAGE2 | dict(
        epochs=1, training_photos=2, data_root=phantoms, stage1_run=stage1, output=tmp_path / "runs"
    )
    command = " ".join(
        [str(Path(sys.executable).parent / "retinal_tl"), "run", "stage2", "--no-notebook", *words(parameters)]
    )
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    [card] = (tmp_path / "runs").glob("stage2-*/card.json")
    assert len(read_card(card.parent).split.training) == 2


def test_stage2_tells_what_is_missing(phantoms, tmp_path):
    with pytest.raises(RetinalError, match="data_root"):
        plan("stage2", dict(data="idrid"))
    with pytest.raises(RetinalError, match="no such run"):
        plan("stage2", STAGE2 | dict(data_root=str(phantoms), stage1_run=str(tmp_path / "nowhere")))
    (tmp_path / "empty" / "images").mkdir(parents=True)
    with pytest.raises(RetinalError):
        plan("stage2", STAGE2 | dict(data_root=str(tmp_path / "empty"), output=str(tmp_path)))


def test_healthy_photos_are_learned_from_and_not_judged_on(phantoms, tmp_path):
    graded = write_synthetic(tmp_path / "graded", count=12, size=160, seed=50, workers=1)
    photos = sorted((graded / "images").iterdir())
    (graded / "labels.csv").write_text("image,lesion\n" + "".join(f"images/{path.name},0\n" for path in photos))
    settings = STAGE2 | dict(data="folder+csv", epochs=1, transfer="scratch", csv="labels.csv")
    split = plan("stage2", settings | dict(data_root=f"{phantoms}+{graded}", output=str(tmp_path / "runs"))).split
    assert any(one.source == "csv" for one in split.training)
    assert not any(one.source == "csv" for one in split.validation)


def test_a_plan_is_printed_by_the_command(phantoms, tmp_path):
    asked = words(STAGE2 | dict(data_root=phantoms, output=tmp_path / "runs"))
    command = [str(Path(sys.executable).parent / "retinal_tl"), "run", "stage2", "--plan", *asked]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for part in ("learns from", "judged on", "made first", "on disk", "steps", "stage2-hemorrhages-finetune"):
        assert part in done.stdout
    assert not list((tmp_path / "runs").glob("stage*")) and re.search(r"-[0-9a-f]{8} \(new\)", done.stdout)
