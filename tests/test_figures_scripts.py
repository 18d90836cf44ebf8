"""The scripts that made the figures in results/, on runs of a toy model and phantoms: what they read, write and refuse.

Nothing is trained: where a script would train, a double leaves the run folder that training would leave. The scripts
that need Keras, lesion_mass and transfer_tried, are tested in test_gradcam.py and test_studies.py.
"""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ablation
import ablation_folds
import coarse_shares
import collect
import folds as folds_script
import models_compared
import numpy as np
import pytest
import warned

from retinal_tl.cards import Parent, SplitNames, TrainingFacts, read_card, write_card
from retinal_tl.core import RetinalError, write_text
from retinal_tl.images import write_png
from retinal_tl.metrics import average_precision, coarsen, pixel_histogram
from retinal_tl.readers import open_data
from retinal_tl.synthetic import phantom, write_synthetic
from toy_runs import RULES, toy_card, toy_model, write_run, write_toy_run

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((REPOSITORY / "tools" / "figures").glob("*.py"))
BLUNT = (0, 0.01, 0, -1.5)  # a rule that finds less than the right one


def call(monkeypatch, script, *arguments):
    """The exit status of a script's `main` with these arguments."""
    monkeypatch.setattr(sys, "argv", [script.__name__, *map(str, arguments)])
    return script.main() or 0


def read_table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """A folder of four synthetic eyes."""
    return write_synthetic(tmp_path_factory.mktemp("data") / "phantoms", 4, 256, seed=3)


@pytest.fixture
def judged(phantoms, tmp_path, monkeypatch):
    """Two runs that were judged on the same three phantoms: one with a blunt rule, one with the right one."""
    monkeypatch.chdir(tmp_path)
    names = tuple(example.name for example in open_data("folder", phantoms).examples)
    card = toy_card(split=SplitNames((), names[:3]))
    for name, rule in (("blunt", BLUNT), ("right", RULES["exudates"])):
        write_run(tmp_path / name, toy_model(rule=rule), replace(card, name=name))
    return tmp_path


def ablate(monkeypatch, phantoms, *arguments):
    return call(monkeypatch, ablation, "table.csv", *arguments, "--data", "folder", "--data-root", phantoms)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_says_how_it_is_called(script):
    for words, status in (["--help"], 0), ([], 2):
        done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        assert f"usage: {script.name}" in done.stdout + done.stderr
        assert f"tools/figures/{script.name}" in done.stdout or words == []


@pytest.fixture
def two_folds(tmp_path, monkeypatch):
    """Two folds of a recipe with two photographs each: one network is right, the other one guesses."""
    monkeypatch.chdir(tmp_path)
    chance = np.random.default_rng(0)
    for fold, noise in enumerate((0.6, 0.9)):
        names = tuple(f"toy:{2 * fold + i}" for i in range(2))
        masks = [chance.random((64, 64)) < 0.1 for _ in names]
        found = {
            name: coarsen(pixel_histogram(np.clip(mask / 2 + noise * chance.random(mask.shape), 0, 1), mask))
            for name, mask in zip(names, masks, strict=True)
        }
        area = average_precision(sum(found.values()))
        write_toy_run(
            f"fold{fold}",
            split=SplitNames((), names),
            training=TrainingFacts(
                dict(fold=fold or None, epochs=2, steps_per_epoch=3), backend="jax", precision="float32", seconds=5.0
            ),
            metrics=dict(validation=dict(exudates=dict(aupr=area))),
        )
        keep_histograms(Path(f"fold{fold}"), found)
    return found


def test_the_folds_of_a_recipe_are_put_together(two_folds, monkeypatch, capsys):
    assert call(monkeypatch, folds_script, "folds.csv", "fold0", "fold1") == 0
    [row] = read_table("folds.csv")
    assert (row["photos"], row["with_lesion"], row["folds"], row["steps"], row["seconds"]) == ("4", "4", "2", "6", "10")
    assert float(row["low"]) < float(row["aupr"]) < float(row["high"]) and float(row["apart"]) < 1e-3
    alone = average_precision(sum(two_folds.values()))
    assert alone < float(row["aupr"]) < 1, "between the worse fold and the better one"
    assert capsys.readouterr().out.endswith(f"mean {row['aupr']}\n") and row["gain"] == ""
    assert row["largest"] in ("toy:0", "toy:1", "toy:2", "toy:3") and 0.25 <= float(row["largest_share"]) < 1
    call(monkeypatch, folds_script, "folds.csv", "fold0", "fold1", "--against", "fold0", "fold1")
    assert [float(read_table("folds.csv")[0][name]) for name in ("gain", "gain_low", "gain_high")] == [0, 0, 0]


def test_what_was_tried_on_folds_is_kept_by_idea(two_folds, monkeypatch):
    for idea in ("larger", "sharper", "larger"):
        call(monkeypatch, folds_script, "tried.csv", "fold0", "--against", "fold0", "--idea", idea)
    assert [row["idea"] for row in read_table("tried.csv")] == ["sharper", "larger"]


def test_a_share_of_the_coarse_map():
    fine, coarse = np.array([[0.1, 0.9]], np.float32), np.array([[0.5, 0.2]], np.float32)
    maps = coarse_shares.mixed(fine, coarse)
    np.testing.assert_allclose(maps["0"], fine, atol=1e-6)
    np.testing.assert_allclose(maps["higher"], [[0.5, 0.9]])
    np.testing.assert_allclose(maps["0.5"], [[0.25, 0.6]], atol=1e-6)  # odds of 1:9 and 1:1 are 1:3 together


def test_what_is_no_fold_of_the_same_recipe_is_refused(two_folds, monkeypatch):
    with pytest.raises(RetinalError, match="judged on the same photograph"):
        call(monkeypatch, folds_script, "folds.csv", "fold0", "fold0")
    facts = TrainingFacts(dict(epochs=9), backend="jax", precision="float32")
    write_toy_run("longer", split=SplitNames((), ("toy:9",)), training=facts)
    with pytest.raises(RetinalError, match="differ in more than their fold"):
        call(monkeypatch, folds_script, "folds.csv", "fold0", "longer")


def test_a_run_is_collected_with_its_provenance(tmp_path, monkeypatch):
    parent = Parent(
        "stage1", "toy-classifier", "c1a55000", "classifier", "0" * 64, "toy", 7.0, "vgg16", ("eye",), auc=0.9
    )
    result = dict(
        images=1, aupr=0.5, curve=[1, 2], per_image=[dict(name="idrid:a.jpg")], band=dict(x=[0.0] * 21, y=[0.0])
    )
    write_toy_run(
        tmp_path / "run",
        split=SplitNames(("toy:a", "toy:b"), ("toy:c",)),
        training=TrainingFacts(dict(seed=3), backend="jax", precision="mixed_bfloat16", seconds=60.5, epochs=2),
        parents=(parent,),
        metrics=dict(validation=dict(exudates=result)),
        hardware="a machine",
    )
    write_text(tmp_path / "run" / "history.csv", "epoch,loss,learning_rate,aupr\n1,0.51239,0.1,\n2,0.4,0.05,0.75\n")
    assert call(monkeypatch, collect, tmp_path / "found.json", f"{tmp_path}/run@0a1b2c3") == 0
    [found] = json.loads((tmp_path / "found.json").read_text())
    assert (found["commit"], found["run_id"], found["hardware"], found["data"]) == (
        "0a1b2c3",
        "70700000",
        "a machine",
        "toy",
    )
    assert found["photos"] == dict(training=2, validation=1, test=0)
    assert found["training"]["settings"] == dict(seed=3) and found["training"]["precision"] == "mixed_bfloat16"
    assert found["parents"] == [
        dict(role="stage1", run_id="c1a55000", name="toy-classifier", kind="classifier", seconds=7.0)
    ]
    assert found["metrics"] == dict(validation=dict(exudates=dict(images=1, aupr=0.5, band=dict(y=[0.0]))))
    assert found["history"] == [dict(epoch=1, loss=0.5124), dict(epoch=2, loss=0.4, aupr=0.75)]
    assert found["lesions"] == ["exudates"] and found["thresholds"] == dict(exudates=0.5) and "threshold" not in found
    assert "idrid:a.jpg" not in json.dumps(found), "names of photographs stay in the card"


def test_a_classifier_is_collected(tmp_path, monkeypatch):
    write_toy_run(tmp_path / "a@b", "classifier", threshold=0.25)  # an @ in the folder's name is its own
    write_text(tmp_path / "a@b" / "history.csv", "epoch\n1\n")
    call(monkeypatch, collect, tmp_path / "new" / "found.json", f"{tmp_path}/a@b@abc")
    [found] = json.loads((tmp_path / "new" / "found.json").read_text())
    assert found["threshold"] == 0.25 and found["commit"] == "abc" and "lesions" not in found


def test_the_collected_results_of_the_repository_have_the_shape_of_today():
    for path in (REPOSITORY / "results" / name for name in ("demo.json", "idrid.json")):
        for entry in json.loads(path.read_text(encoding="utf-8")):
            own = {"threshold"} if entry["kind"] == "classifier" else {"lesions", "thresholds", "transfer"}
            every = set(collect.KEPT) - {"threshold", "lesions", "thresholds", "transfer"} | own
            assert set(entry) == every | {"commit", "data", "photos", "parents", "metrics", "history"}, entry["name"]
            assert collect.small(entry["metrics"]) == entry["metrics"]


@pytest.mark.parametrize("run", ["run", "run@", "@abc"])
def test_a_run_without_its_commit_is_refused(tmp_path, monkeypatch, capsys, run):
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, collect, tmp_path / "found.json", run)
    assert stopped.value.code == 2 and "is not RUN@COMMIT" in capsys.readouterr().err
    assert not (tmp_path / "found.json").exists()


def test_an_idea_is_measured_on_the_photographs_that_both_runs_were_judged_on(judged, phantoms, monkeypatch, capsys):
    assert ablate(monkeypatch, phantoms, "the right rule", "blunt", "right") == 0
    [row] = read_table("table.csv")
    assert (
        row["lesion"] == "exudates" and (row["run_off"], row["run_on"]) == ("blunt", "right") and row["photos"] == "3"
    )
    assert float(row["gain"]) == pytest.approx(float(row["with"]) - float(row["without"]), abs=2e-4)
    assert float(row["with"]) > float(row["without"]) and float(row["low"]) <= float(row["gain"]) <= float(row["high"])
    assert "exudates: " in capsys.readouterr().out


def test_an_entry_of_the_card_is_changed(judged, phantoms, monkeypatch):
    write_text(
        "table.csv", ",".join(ablation.COLUMNS) + "\nflips,exudates" + ",9" * 11 + "\nother,exudates" + ",9" * 11 + "\n"
    )
    ablate(monkeypatch, phantoms, "flips", "right", "right", "--off", "overlap=0", "--on", "flips=all", "tile=128")
    other, row = read_table("table.csv")
    assert other["idea"] == "other" and other["gain"] == "9", "rows of other ideas stay, those of this one are replaced"
    assert (row["off"], row["on"]) == ("overlap=0", "flips=all tile=128")
    assert float(row["gain"]) == pytest.approx(0, abs=1e-3), "a rule on color does not see in which mirror it looks"
    assert len(list(Path("runs/ablation").glob("*.npz"))) == 2
    assert ablation.entries(["flips=all", "overlap=0.5"]) == dict(flips="all", overlap=0.5)


def test_what_was_counted_once_is_not_counted_again(judged, phantoms, monkeypatch):
    ablate(monkeypatch, phantoms, "idea", "blunt", "right")
    [before] = read_table("table.csv")
    monkeypatch.setattr(ablation, "count", None)
    ablate(monkeypatch, phantoms, "idea", "blunt", "right")
    assert read_table("table.csv") == [before]
    monkeypatch.setattr(ablation, "KEPT", Path("elsewhere"))
    with pytest.raises(TypeError):
        ablate(monkeypatch, phantoms, "idea", "blunt", "right")


def test_what_a_run_has_kept_itself_is_taken(judged, phantoms, monkeypatch):
    """Histograms beside the runs: then no model is opened."""
    examples = open_data("folder", phantoms).examples[:3]
    for name in ("blunt", "right"):
        found = ablation.histograms(Path(name), [], examples, Path("cache"))["exudates"]
        keep_histograms(Path(name), found)
        (Path(name) / "model.onnx").unlink()
    monkeypatch.setattr(ablation, "count", None)
    assert ablate(monkeypatch, phantoms, "idea", "blunt", "right") == 0
    assert float(read_table("table.csv")[0]["gain"]) > 0


def keep_histograms(folder, found, lesion="exudates"):
    """The file that `judge` leaves in a run for a lesion."""
    counts, levels = np.stack([one.counts for one in found.values()]), next(iter(found.values())).levels
    np.savez_compressed(folder / f"{lesion}_histograms.npz", names=list(found), counts=counts, levels=levels)


@pytest.mark.parametrize(
    "words, said",
    [
        (["right", "other"], "judged on different photographs"),
        (["right", "right", "--on", "flops=all"], "flips"),
        (["right", "missing"], "missing"),
        (["elsewhere", "elsewhere"], "are not in"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(judged, phantoms, monkeypatch, capsys, words, said):
    write_toy_run("other", split=SplitNames((), ("folder:else.png",)))
    write_toy_run("elsewhere", split=SplitNames((), ("folder:else.png",)))
    assert ablate(monkeypatch, phantoms, "idea", *words) == 1
    assert said in capsys.readouterr().err and not Path("table.csv").exists()


@pytest.fixture
def folds(judged, phantoms, monkeypatch):
    """A double for training: a run per set of parameters, the better the more steps it is given; and the parameters."""
    asked, examples = [], open_data("folder", phantoms).examples
    kept = {
        rule: ablation.histograms(judged / rule, [], examples[:3], Path("cache"))["exudates"]
        for rule in ("blunt", "right")
    }

    def train(**parameters):
        asked.append(parameters)
        rule = "right" if parameters["steps_per_epoch"] > 200 else "blunt"
        folder = Path(parameters["output"]) / f"run{len(asked)}"
        write_toy_run(folder, hardware="a double")
        share = slice(parameters["fold"], 2 + parameters["fold"]) if parameters["fold"] == 0 else slice(2, 3)
        keep_histograms(folder, dict(list(kept[rule].items())[share]))
        return folder

    monkeypatch.setattr(ablation_folds, "run_stage2", train)
    return asked


def test_each_idea_is_judged_over_both_folds(folds, monkeypatch):
    ideas = ["three times the steps", "tiles overlap by a quarter"]
    common = ["--idrid", "I", "--screening", "S", "--runs", "runs", "--ideas", *ideas]
    assert call(monkeypatch, ablation_folds, "table.csv", *common) == 0
    more, tiles = read_table("table.csv")
    assert more["photos"] == "3" and more["folds"] == "2" and more["hardware"] == "a double"
    assert more["changed"] == "steps_per_epoch=600" and float(more["gain"]) > 0
    assert tiles["changed"] == "overlap=0.0" and float(tiles["gain"]) == 0
    assert [(one["fold"], one["steps_per_epoch"], one.get("overlap")) for one in folds] == [
        (0, 200, None), (1, 200, None), (0, 600, None), (1, 600, None), (0, 200, 0.0), (1, 200, 0.0)
    ]  # fmt: skip
    assert all(one["data_root"] == "I" and one["validation"] == 0.5 and one["preset"] == "best" for one in folds)


def test_an_idea_that_takes_something_out_is_the_side_without(folds, monkeypatch):
    monkeypatch.setitem(ablation_folds.IDEAS, "more steps, named as taken out", (dict(steps_per_epoch=600), "out"))
    common = ["--idrid", "I", "--screening", "S", "--ideas", "more steps, named as taken out"]
    call(monkeypatch, ablation_folds, "table.csv", *common)
    assert float(read_table("table.csv")[0]["gain"]) < 0


def test_several_machines_divide_the_training(folds, monkeypatch):
    ideas = ["twice the channels", "healthy photographs among the patches"]
    common = ["--idrid", "I", "--screening", "S", "--ideas", *ideas]
    for share in ("1", "2"):
        call(monkeypatch, ablation_folds, "table.csv", *common, "--share", share, "2")
    assert not Path("table.csv").exists() and len(folds) == 6
    assert sorted((one["fold"], one["width"], one["data"]) for one in folds) == sorted(
        (fold, *rest) for fold in (0, 1) for rest in ((0.25, "idrid"), (0.5, "idrid"), (0.25, "idrid+csv"))
    )
    assert [one["data_root"] for one in folds if one["data"] == "idrid+csv"] == ["I+S", "I+S"]


@pytest.mark.parametrize("idea", list(ablation_folds.IDEAS))
def test_every_idea_is_a_run_that_the_library_knows(idea):
    """A renamed parameter would be noticed hours later, at the end of the training before."""
    from retinal_tl.settings import Stage2, settings_for

    changes, direction = ablation_folds.IDEAS[idea]
    assert direction in ("in", "out")
    asked = settings_for(Stage2, ablation_folds.RECIPE | changes | dict(data_root="x", fold=0, seed=0, output="runs"))
    reference = settings_for(Stage2, ablation_folds.RECIPE | dict(data_root="x", fold=0, seed=0, output="runs"))
    assert asked != reference


def test_a_missing_idea_is_refused(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        call(monkeypatch, ablation_folds, "table.csv", "--idrid", "I", "--screening", "S", "--ideas", "nothing")
    assert stopped.value.code == 2 and "invalid choice" in capsys.readouterr().err


def test_two_segmenters_are_compared_on_what_neither_has_learned(phantoms, judged, monkeypatch, capsys):
    names = [example.photo.name for example in open_data("folder", phantoms).examples]
    card = replace(read_card(judged / "blunt"), split=SplitNames((f"folder:images/{names[0]}",), ()))
    write_card(judged / "blunt", card)
    words = (phantoms, judged / "right", judged / "blunt", "--data", "folder", "--output", "compared.csv")
    assert call(monkeypatch, models_compared, *words) == 0
    exudates, mean = read_table("compared.csv")
    assert exudates["photographs"] == "2", "of the three that chose, the first has taught one of the models"
    assert (exudates["lesion"], mean["lesion"]) == ("exudates", "mean") and mean["first"] == exudates["first"]
    assert float(exudates["difference"]) == pytest.approx(
        float(exudates["first"]) - float(exudates["second"]), abs=2e-4
    )
    assert float(exudates["first"]) > float(exudates["second"]) and "n = 2" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="neither model has learned from"):
        call(monkeypatch, models_compared, *words, "--photos", names[0])


def test_warnings_are_counted_and_a_second_start_does_what_is_missing(tmp_path, monkeypatch, capsys):
    for name, folder in warned.FOLDERS.items():
        (tmp_path / name / folder).mkdir(parents=True)
    eye = phantom(3, 600).photo
    write_png(tmp_path / "DIARETDB0" / "images" / "good.png", eye)
    write_png(tmp_path / "DIARETDB0" / "images" / "dark.png", eye // 12)
    table = tmp_path / "warned.csv"
    assert call(monkeypatch, warned, tmp_path, "--output", table) == 0
    said = {row["image"]: row["warnings"] for row in read_table(table)}
    assert said["good"] == "" and "dark" in said["dark"]
    assert "DIARETDB0: 1 of 2 get a warning" in capsys.readouterr().out
    write_png(tmp_path / "DR-screening" / "images" / "none.png", eye[:40, :40] * 0)
    assert call(monkeypatch, warned, tmp_path, "--output", table) == 0
    rows = read_table(table)
    assert [row["image"] for row in rows] == ["dark", "good", "none"] and "failed" in rows[-1]["warnings"]


def test_good_photographs_stay_free_of_warnings():
    """At most 1 % of IDRiD's photographs, and 3 % of another camera's."""
    rows = read_table(REPOSITORY / "results" / "warned.csv")
    for sets, photographs, bar in ((("IDRiD", "DR-screening"), 443, 0.01), (("DIARETDB0",), 118, 0.03)):
        said = [row["warnings"] for row in rows if row["set"] in sets]
        assert len(said) == photographs and sum(map(bool, said)) <= bar * photographs
