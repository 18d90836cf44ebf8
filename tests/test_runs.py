"""The two stages as a user starts them: papermill, the command on a terminal, and a kill in the middle."""

import csv
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from retinal_tl.cards import check_files, read_card
from retinal_tl.synthetic import write_synthetic

REPOSITORY = Path(__file__).resolve().parent.parent
TINY = dict(
    data="folder", width=0.05, encoder="vgg16", diameter=160, batch_size=4, steps_per_epoch=3, precision="float32"
)
STAGE1 = TINY | dict(image_size=64, epochs=1)
STAGE2 = TINY | dict(patch_size=64, epochs=3, lesion="hemorrhages", transfer="finetune")


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("data") / "phantoms", count=24, size=160, seed=1, workers=2)


@pytest.fixture(scope="module")
def stage1(phantoms, tmp_path_factory) -> Path:
    from retinal_tl.runs import run_stage1

    return run_stage1(lambda line: None, **STAGE1, data_root=str(phantoms), output=str(tmp_path_factory.mktemp("runs")))


def words(parameters: dict) -> list[str]:
    return [word for name, value in parameters.items() for word in ("-p", name, str(value))]


def papermill(notebook: str, output: Path, parameters: dict, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "papermill", str(REPOSITORY / "nbs" / notebook), str(output), *words(parameters)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def executed(phantoms, stage1, tmp_path_factory) -> Path:
    """The executed notebook of stage 2, beside the folder `runs` that it has written."""
    folder = tmp_path_factory.mktemp("papermill")
    done = papermill(
        "run_stage2.ipynb",
        folder / "executed.ipynb",
        STAGE2 | dict(data_root=phantoms, stage1_run=stage1, output=folder / "runs"),
        folder,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "executed.ipynb"


def test_papermill_runs_stage2(executed, stage1):
    [run] = (executed.parent / "runs").glob("stage2-*")
    card = read_card(run)
    check_files(run, card)
    assert set(card["files"]) == {"model.keras", "model.onnx"} and card["transfer"] == "finetune"
    assert not set(card["split"]["validation"]) & set(read_card(stage1)["split"]["training"])
    for name in (
        "history.csv",
        "curves.png",
        "checkpoint/last.npz",
        "figures/examples.png",
        "figures/precision_recall.png",
    ):
        assert (run / name).stat().st_size
    outputs = [output for cell in nbformat.read(executed, 4).cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 4
    assert any("AUPR" in str(output.get("data", {}).get("text/markdown", "")) for output in outputs)


def test_papermill_refuses_a_wrong_name(tmp_path):
    done = papermill("run_stage2.ipynb", tmp_path / "executed.ipynb", dict(lesoin="hemorrhages"), tmp_path)
    assert done.returncode != 0 and "did you mean 'lesion'" in done.stderr
    assert not (tmp_path / "runs").exists() and not (tmp_path / "data").exists()


def stage2_process(phantoms: Path, stage1: Path, output: Path) -> subprocess.Popen:
    parameters = STAGE2 | dict(data_root=str(phantoms), stage1_run=str(stage1), output=str(output))
    code = f"from retinal_tl.runs import run_stage2; run_stage2(lambda line: print(line, flush=True), **{parameters!r})"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def history(run: Path) -> list[dict]:
    with open(run / "history.csv", newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def test_a_killed_run_goes_on_and_ends_as_that_of_papermill(phantoms, stage1, executed, tmp_path):
    broken = stage2_process(phantoms, stage1, tmp_path / "broken")
    for line in broken.stdout:
        if line.startswith("epoch 1/3"):
            break
    broken.send_signal(signal.SIGKILL)
    broken.wait()
    broken.stdout.close()
    [run] = (tmp_path / "broken").glob("stage2-*")
    assert read_card(run, finished=False)["status"] == "training" and not (run / "model.onnx").exists()

    again = stage2_process(phantoms, stage1, tmp_path / "broken")
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0 and "goes on" in said and "epoch 1/3" not in said, said
    [other] = (executed.parent / "runs").glob("stage2-*")
    assert history(run) == history(other)
    first, second = read_card(run), read_card(other)
    assert first["metrics"] == second["metrics"] and first["threshold"] == second["threshold"]
    assert (
        first["files"]["model.keras"] == second["files"]["model.keras"]
    )  # to the byte, so that runs that build on them have one name


def test_a_diseased_photo_without_masks_has_no_healthy_patches(phantoms, tmp_path):
    from retinal_tl.runs import run_stage1

    graded = write_synthetic(tmp_path / "graded", count=6, size=160, seed=50, workers=1)
    photos = sorted((graded / "images").iterdir())
    (graded / "labels.csv").write_text(
        "image,lesion\n" + "".join(f"images/{path.name},{i % 2}\n" for i, path in enumerate(photos))
    )
    run = run_stage1(
        lambda line: None,
        **STAGE1 | dict(data="folder+csv", labels="patch"),
        data_root=f"{phantoms}+{graded}",
        csv="labels.csv",
        output=str(tmp_path / "runs"),
    )
    learned_or_judged = {name for part in read_card(run)["split"].values() for name in part if name.startswith("csv:")}
    assert learned_or_judged == {f"csv:{path.name}" for i, path in enumerate(photos) if i % 2 == 0}


def test_without_masks_squares_have_the_label_of_their_photo(phantoms, tmp_path):
    from retinal_tl.core import RetinalError
    from retinal_tl.runs import run_stage1

    photos = sorted((phantoms / "images").iterdir())
    (tmp_path / "labels.csv").write_text(
        "image,lesion\n" + "".join(f"images/{path.name},{i % 2}\n" for i, path in enumerate(photos))
    )
    said, small = [], dict(width=0.05, diameter=160, image_size=64, batch_size=2, epochs=1, steps_per_epoch=1)
    data = dict(data="csv", data_root=str(phantoms), csv=str(tmp_path / "labels.csv"), output=str(tmp_path / "runs"))
    run = run_stage1(said.append, **small, **data)
    assert read_card(run)["training"]["labels"] == "photo" and any("no masks" in line for line in said)
    with pytest.raises(RetinalError, match="have no masks"):
        run_stage1(print, **small, **data, labels="patch")


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
    assert len(read_card(card.parent)["split"]["training"]) == 2


def test_stage2_tells_what_is_missing(phantoms, tmp_path):
    from retinal_tl.core import RetinalError
    from retinal_tl.runs import run_stage2

    with pytest.raises(RetinalError, match="data_root"):
        run_stage2(print, data="idrid")
    with pytest.raises(RetinalError, match="no such run"):
        run_stage2(print, **STAGE2, data_root=str(phantoms), stage1_run=str(tmp_path / "nowhere"))
    (tmp_path / "empty" / "images").mkdir(parents=True)
    with pytest.raises(RetinalError):
        run_stage2(print, **STAGE2, data_root=str(tmp_path / "empty"), output=str(tmp_path))


def test_healthy_photos_are_learned_from_and_not_judged_on(phantoms, tmp_path):
    from retinal_tl.runs import run_stage2

    graded = write_synthetic(tmp_path / "graded", count=12, size=160, seed=50, workers=1)
    photos = sorted((graded / "images").iterdir())
    (graded / "labels.csv").write_text("image,lesion\n" + "".join(f"images/{path.name},0\n" for path in photos))
    settings = STAGE2 | dict(data="folder+csv", epochs=1, transfer="scratch")
    run = run_stage2(
        lambda line: None, **settings, data_root=f"{phantoms}+{graded}", csv="labels.csv", output=str(tmp_path / "runs")
    )
    split = read_card(run)["split"]
    assert any(name.startswith("csv:") for name in split["training"]) and not any(
        name.startswith("csv:") for name in split["validation"]
    )
    assert read_card(run)["metrics"]["validation"]["images"] == len(split["validation"])
