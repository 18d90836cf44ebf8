"""The tables and the transfer study at toy size: what they reuse, a kill in the middle, and the dry run.

One test trains, in processes of its own, and is killed half-way. The others put a double in the place of the two stages: it leaves a run folder as they do,
with the card that the settings ask for, and no training behind it.
"""

import csv
import json
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import nbformat
import numpy as np
import pytest

import retinal_tl.studies
from retinal_tl.cards import read_card
from retinal_tl.core import LESIONS, RetinalError
from retinal_tl.metrics import BINS, PixelHistogram, pixel_histogram
from retinal_tl.runs import Stage1, Stage2, open_data, photo_name, settings_for
from retinal_tl.studies import (
    Tables,
    Transfer,
    find_runs,
    plot_attention,
    plot_learning,
    plot_photos,
    read_histograms,
    read_results,
    run_tables,
    run_transfer,
    study_parameters,
    table_jobs,
    transfer_jobs,
)
from retinal_tl.synthetic import write_synthetic
from toy_runs import toy_card, toy_model, write_run

REPOSITORY = Path(__file__).resolve().parent.parent
TINY = dict(
    data="folder",
    width=0.05,
    diameter=160,
    precision="float32",
    image_size=64,
    stage1_epochs=1,
    stage1_steps_per_epoch=2,
    stage1_batch_size=4,
    patch_size=64,
    epochs=2,
    steps_per_epoch=2,
    batch_size=4,
)
TABLES = TINY | dict(encoders="vgg16+resnet50_cbam", lesions="hemorrhages+exudates")
TRANSFER = TINY | dict(lesion="hemorrhages", encoder="vgg16", photos="2+5")
KILLED = TRANSFER | dict(seeds=1, arms="scratch+frozen", photos="", attention=False)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> str:
    return str(write_synthetic(tmp_path_factory.mktemp("data") / "phantoms", count=24, size=160, seed=1, workers=2))


def process(parameters: dict) -> subprocess.Popen:
    code = f"from retinal_tl.studies import run_transfer; run_transfer(lambda line: print(line, flush=True), **{parameters!r})"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_killed_study_goes_on(phantoms, tmp_path):
    parameters = KILLED | dict(data_root=phantoms, output=str(tmp_path / "runs"), results=str(tmp_path / "results"))
    broken = process(parameters)
    before = []
    for line in broken.stdout:
        before.append(line)
        if line.startswith("epoch 1/2"):
            break
    broken.send_signal(signal.SIGKILL)
    broken.wait()
    broken.stdout.close()
    first = next(line for line in before if "trainings:" in line)
    assert first.startswith("3 trainings: 0 finished before, 0 to go on with, 3 to make."), before
    assert not (tmp_path / "results").exists()

    again = process(parameters)
    said, _ = again.communicate(timeout=900)
    assert (
        again.returncode == 0
        and "3 trainings: 1 finished before, 1 to go on with, 1 to make." in said
        and "goes on" in said
    ), said
    assert "1 of 3: " not in said and said.count("epoch 1/2") == 1  # not the stage 1, not the epoch that was done
    cards = [read_card(path.parent) for path in (tmp_path / "runs").glob("stage2-*/card.json")]
    assert (
        {card["transfer"] for card in cards} == {"scratch", "frozen"}
        and cards[0]["split"] == cards[1]["split"]
        and cards[0]["parents"] == cards[1]["parents"]
    )
    results = read_results(tmp_path / "results" / "transfer_folder.json")
    for row in results["rows"]:
        folder = tmp_path / "runs" / row["run"]
        with open(folder / "history.csv", newline="") as file:
            history = list(csv.DictReader(file))
        if row["measured"] == "at the end":
            assert row["aupr"] == read_card(folder)["metrics"]["validation"]["aupr"]
        else:
            assert float(history[row["step"] // 2 - 1]["aupr"]) == row["aupr"]
    assert len(results["rows"]) == 2 * (2 + 1) and all(one["photos_interval"] for one in results["comparisons"])


def few_levels(histogram: PixelHistogram) -> PixelHistogram:
    """A histogram of which thousands of drawings are quickly made."""
    levels = np.arange(0, BINS, 512)
    return PixelHistogram(np.add.reduceat(histogram.counts, levels, axis=1), levels)


class Double:
    """Stands for both stages: run folders with the right cards, where `finetune` is better than `scratch` and that better than `frozen`."""

    LEVEL = {"finetune": 2.4, "scratch": 2.0, "frozen": 1.6}

    def __init__(self):
        self.trained = []

    def stage1(self, report, **parameters):
        return self._run(Stage1, parameters, {})

    def stage2(self, report, **parameters):
        parent = read_card(parameters["stage1_run"])
        assert (
            parent["kind"] == "classifier"
            and parent["encoder"] == parameters["encoder"]
            and parent["training"]["seed"] == parameters["seed"]
        )
        return self._run(Stage2, parameters, parent)

    def _run(self, stage, parameters, parent):
        settings = settings_for(stage, parameters)
        names = sorted(
            photo_name(example) for example in open_data(settings.data, settings.data_root, settings.csv).examples
        )
        count = getattr(settings, "training_photos", None) or len(names) - 6
        name = f"stage{1 if stage is Stage1 else 2}-{len(list(Path(settings.output).glob('stage*')))}"
        training = asdict(settings) | dict(seconds=10.0, epochs_trained=settings.epochs)
        card = toy_card(
            "classifier" if stage is Stage1 else "segmenter", getattr(settings, "lesion", "exudates")
        ) | dict(
            name=name,
            encoder=settings.encoder,
            width=settings.width,
            training=training,
            versions={},
            hardware="a double",
            data=dict(name=settings.data),
            split=dict(training=names[6 : 6 + count], validation=names[:6], test=[]),
            parents=[]
            if stage is Stage1
            else [
                dict(
                    name=parent["name"],
                    kind=parent["kind"],
                    model=parent["files"]["model.onnx"],
                    training=parent["training"],
                    metrics=parent["metrics"],
                )
            ],
        )
        folder = Path(settings.output) / name
        if stage is Stage1:
            metrics = dict(
                accuracy=0.75,
                accuracy_interval=[0.5, 1.0],
                recall=0.5,
                precision=1.0,
                auc=0.875,
                auc_interval=[0.75, 1.0],
                trivial_accuracy=0.5,
                images=6,
            )
        else:
            card["transfer"] = settings.transfer
            metrics = self._measures(folder, settings, names[:6], np.log10(count))
        write_run(folder, toy_model(card["kind"]), card | dict(metrics=dict(validation=metrics)))
        card = read_card(folder)
        from retinal_tl.cards import write_card

        write_card(folder, card | dict(files=card["files"] | {"model.keras": card["files"]["model.onnx"]}))
        self.trained.append(name)
        return folder

    def _measures(self, folder, settings, names, more):
        from retinal_tl.metrics import average_precision

        counted = {}
        for i, name in enumerate(names):
            rng = np.random.default_rng(i)
            mask = rng.random(3000) < 0.05
            counted[name] = few_levels(
                pixel_histogram(
                    1
                    / (
                        1
                        + np.exp(
                            -(
                                mask * (self.LEVEL[settings.transfer] + more / 4 + settings.seed / 10)
                                + rng.normal(size=3000)
                            )
                        )
                    ),
                    mask,
                )
            )
        folder.mkdir(parents=True)
        np.savez(
            folder / "histograms.npz",
            names=np.array(names),
            counts=np.stack([one.counts for one in counted.values()]),
            levels=counted[names[0]].levels,
        )
        aupr = average_precision(sum(counted.values()))
        (folder / "history.csv").write_text(
            "epoch,loss,learning_rate,aupr,seconds\n"
            + "".join(f"{i + 1},1,0.001,{aupr * (i + 1) / settings.epochs},2.5\n" for i in range(settings.epochs))
        )
        each = [dict(name=name, aupr=average_precision(one)) for name, one in counted.items()]
        return dict(
            aupr=aupr,
            aupr_interval=[aupr / 2, aupr * 1.5],
            dice=0.5,
            dice_interval=[0.25, 0.75],
            accuracy=0.9,
            sensitivity=0.8,
            specificity=0.95,
            trivial_accuracy=0.95,
            images=6,
            per_image=each,
        )


@pytest.fixture
def double(monkeypatch) -> Double:
    double = Double()
    monkeypatch.setattr(retinal_tl.studies, "run_stage1", double.stage1)
    monkeypatch.setattr(retinal_tl.studies, "run_stage2", double.stage2)
    monkeypatch.setattr("keras.utils.clear_session", lambda: None)  # a second each, and the double makes no model
    return double


@pytest.fixture
def places(phantoms, tmp_path) -> dict:
    return dict(data_root=phantoms, output=str(tmp_path / "runs"), results=str(tmp_path / "results"))


def test_the_study_finds_what_was_put_into_it(double, places):
    results = read_results(run_transfer(lambda line: None, **TRANSFER | places))
    assert len(double.trained) == 3 * (4 + 2 * 3 + 4) and len(results["rows"]) == 3 * (3 + 2 * 3 + 3) * (2 + 1)
    assert {row["photos"] for row in results["rows"]} == {2, 5, 18}
    for one in results["comparisons"]:
        if one["minus"] == "scratch":
            assert (
                (one["aupr"] > 0)
                == (one["arm"] == "finetune")
                == (one["photos_interval"][0] > 0)
                == (one["seeds_interval"][0] > 0)
            )
        if one["minus"] == "without CBAM":
            assert one["aupr"] == pytest.approx(0) and one["photos_interval"] == pytest.approx(
                [0, 0]
            )  # the double knows no attention
    assert [one["minus"] for one in results["comparisons"]].count("scratch") == 2 * 4 and [
        one["minus"] for one in results["comparisons"]
    ].count("without CBAM") == 3
    times = {one["arm"]: one for one in results["times"]}
    assert (
        times["finetune"]["steps"] == 4
        and times["finetune"]["seconds_with_stage1"] == 5 + 10
        and times["scratch"]["seconds_with_stage1"] == 5
    )
    assert times["frozen"]["reached"] == 0 and times["frozen"]["steps"] is None
    assert (
        len(plot_learning(results).axes) == 3
        and len(plot_photos(results).axes[0].get_xticks()) == 3
        and len(plot_attention(results).axes[0].lines) == 3
    )
    origin = results["provenance"]
    assert (
        origin["command"].startswith("papermill nbs/run_transfer.ipynb")
        and "-p photos 2+5" in origin["command"]
        and origin["seeds"] == [0, 1, 2]
        and origin["split"]["seed"] == [0]
    )
    assert {"data", "split", "hardware", "versions", "commit", "runs"} <= set(origin) and len(origin["runs"]) == len(
        double.trained
    )
    assert {row["run"] for row in results["rows"]} <= {run["folder"] for run in origin["runs"].values()} and len(
        results["stage1"]
    ) == 6


def test_what_is_finished_is_not_trained_again(double, places, tmp_path):
    small = TRANSFER | places | dict(attention=False, photos="")
    path = run_transfer(lambda line: None, **small)
    first, trained = path.with_suffix(".csv").read_bytes(), len(double.trained)
    assert (
        run_transfer(lambda line: None, **small).with_suffix(".csv").read_bytes() == first
        and len(double.trained) == trained == 3 * 4
    )
    run_transfer(lambda line: None, **small | dict(photos="5"))
    assert len(double.trained) == trained + 3 * 3  # a larger study begins with the runs of the smaller one
    found = lambda **changes: len(find_runs(transfer_jobs(*study_parameters(Transfer, small | changes))))
    assert found() == 12 and found(epochs=3) == 3 and found(seeds=1) == 4
    assert (
        found(stage1_epochs=2)
        == found(seed=7)
        == found(resume=False)
        == found(diameter=240)
        == found(output=str(tmp_path / "elsewhere"))
        == 0
    )
    card = Path(places["output"]) / double.trained[0] / "card.json"
    card.write_text(card.read_text().replace("folder:", "other:"))
    assert found() == 12 - 4  # a stage 1 of other photographs is another one, and so are the runs that began from it


def test_one_stage1_for_all_seeds(double, places):
    run_transfer(lambda line: None, **TRANSFER | places | dict(attention=False, photos="", seeds=1, arms="scratch"))
    given = dict(stage1_run=str(Path(places["output"]) / double.trained[0]), encoder=None, width=None)
    jobs = transfer_jobs(*study_parameters(Transfer, TRANSFER | places | given))
    assert (
        len(jobs) == 3 * 3 * 3
        and {job.stage for job in jobs} == {2}
        and {job.parameters["encoder"] for job in jobs} == {"vgg16"}
        and {job.parameters["width"] for job in jobs} == {0.05}
    )
    with pytest.raises(RetinalError, match="vgg16"):
        transfer_jobs(*study_parameters(Transfer, TRANSFER | places | given | dict(encoder="resnet50")))
    with pytest.raises(RetinalError, match="run of stage 1"):
        transfer_jobs(
            *study_parameters(
                Transfer, TRANSFER | places | given | dict(stage1_run=str(Path(places["output"]) / double.trained[1]))
            )
        )


def test_runs_judged_on_different_photographs_are_not_compared(double, places):
    small = TRANSFER | places | dict(attention=False, photos="", seeds=1, arms="scratch+frozen")
    run_transfer(lambda line: None, **small)
    path = Path(places["output"]) / double.trained[-1] / "card.json"
    card = json.loads(path.read_text())
    card["split"]["validation"].pop()
    path.write_text(json.dumps(card))
    with pytest.raises(RetinalError, match="other photographs"):
        run_transfer(lambda line: None, **small)


def test_tables(double, places):
    path = run_tables(lambda line: None, **TABLES | places)
    results = read_results(path)
    assert len(double.trained) == 2 * (1 + 2)
    mine = {
        (row["table"], row["lesion"], row["method"], row["metric"]): row
        for row in results["rows"]
        if row["source"].startswith("this study, 6 validation")
    }
    assert [mine[1, None, "resnet50_cbam", "auc"][name] for name in ("value", "low", "high")] == [0.875, 0.75, 1.0]
    assert (
        mine[2, "hemorrhages", "vgg16", "dice"]["high"] == 0.75
        and mine[2, "exudates", "vgg16", "hours"]["value"] == pytest.approx(10 / 3600)
        and len(mine) == 2 * 6 + 4 * 7
    )
    published = {
        (row["table"], row["method"], row["metric"]): row["value"]
        for row in results["rows"]
        if row["source"].startswith("published") and row["lesion"] in (None, "hemorrhages")
    }
    assert (
        published[1, "vgg16", "recall"] == 0.92
        and published[2, "vgg16", "sensitivity"] == 0.8021
        and published[2, "Aziz", "f1"] == 0.7225
    )
    assert path.with_name(results["figure"]).read_bytes().startswith(b"\x89PNG")
    run_tables(lambda line: None, **TABLES | places)
    assert (
        len(double.trained) == 2 * (1 + 2)
        and len(find_runs(table_jobs(*study_parameters(Tables, TABLES | places)))) == 6
    )


def papermill(notebook: str, output: Path, parameters: dict, cwd: Path) -> str:
    words = [word for name, value in parameters.items() for word in ("-p", name, str(value))]
    done = subprocess.run(
        [sys.executable, "-m", "papermill", str(REPOSITORY / "nbs" / notebook), str(output), *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return "\n".join(str(output) for cell in nbformat.read(output, 4).cells for output in cell.get("outputs", []))


def test_the_notebooks_draw_from_the_files(double, places, tmp_path):
    """Everything was trained before; the notebooks, in kernels without the double, find it."""
    run_transfer(lambda line: None, **TRANSFER | places)
    shown = papermill("run_transfer.ipynb", tmp_path / "transfer.ipynb", TRANSFER | places, tmp_path)
    assert (
        "42 finished before, 0 to go on with, 0 to make" in shown
        and shown.count("image/png") == 3
        and "AUPR minus that of scratch" in shown
        and "AUPR minus that without CBAM" in shown
    )
    run_tables(lambda line: None, **TABLES | places)
    shown = papermill("run_tables.ipynb", tmp_path / "tables.ipynb", TABLES | places, tmp_path)
    assert (
        "6 finished before" in shown
        and shown.count("image/png") == 1
        and "published by Ortiz-Feregrino et al., on other data" in shown
    )


def test_a_dry_run_trains_nothing(tmp_path):
    parameters = TABLES | dict(
        dry=True, data_root=str(tmp_path / "none"), output=str(tmp_path / "runs"), results=str(tmp_path / "results")
    )
    shown = papermill("run_tables.ipynb", tmp_path / "executed.ipynb", parameters, tmp_path)
    assert (
        "6 trainings: 0 finished before, 0 to go on with, 6 to make." in shown
        and "hemorrhages, resnet50_cbam, frozen" in shown
    )
    assert [path.name for path in tmp_path.iterdir()] == ["executed.ipynb"]


def test_wrong_parameters_are_found_before_any_work(tmp_path):
    for function, wrong, part in [
        (run_tables, dict(lesion="exudates"), "by the study"),
        (run_tables, dict(encoders="vgg61"), "vgg16"),
        (run_tables, dict(epochs=0), "epochs"),
        (run_transfer, dict(arms="frozen"), "scratch"),
        (run_transfer, dict(stage1_run=str(tmp_path / "nowhere")), "no such run"),
    ]:
        with pytest.raises(RetinalError, match=part):
            function(print, **dict(output=str(tmp_path / "runs")) | wrong)
    assert not list(tmp_path.iterdir())


def test_histograms_of_a_run_without_any_are_none(tmp_path):
    assert read_histograms(tmp_path) is None


def test_what_was_tried_is_compared_with_the_study_and_trains_what_is_missing(double, places, tmp_path, monkeypatch):
    import transfer_tried

    monkeypatch.setattr(transfer_tried, "run_stage1", lambda **parameters: double.stage1(None, **parameters))
    monkeypatch.setattr(transfer_tried, "run_stage2", lambda **parameters: double.stage2(None, **parameters))
    study = run_transfer(lambda line: None, **TRANSFER | places | dict(attention=False, photos="2"))
    table, ideas = (
        tmp_path / "tried.csv",
        ["as the study, frozen", "as the study, finetune", "classifier with max pooling"],
    )
    command = [
        "transfer_tried",
        str(table),
        "--study",
        str(study),
        "--runs",
        str(tmp_path / "other_runs"),
        "--ideas",
        *ideas,
    ]
    monkeypatch.setattr(sys, "argv", command)
    before = len(double.trained)
    transfer_tried.main()
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert (
        [row["idea"] for row in rows] == ideas
        and {row["seeds"] for row in rows} == {"3"}
        and {row["photos"] for row in rows} == {"6"}
    )
    assert [float(row["low"]) > 0 for row in rows] == [False, True, True] and float(
        rows[0]["high"]
    ) < 0  # as was put into the double
    assert rows[1]["gain"] == rows[2]["gain"] != rows[0]["gain"]  # the double knows no pooling
    assert (
        len(double.trained) - before == 3 * 4 + 3 * 2
    )  # no run of the study was there: its four for each seed, then a classifier and a segmenter for the idea
    monkeypatch.setattr(sys, "argv", command + ["--seeds", "1"])
    transfer_tried.main()
    assert (
        len(double.trained) - before == 3 * 4 + 3 * 2 + 2
    )  # the arms are there; the double knows nothing of earlier runs of the idea


def test_ideas_are_compared_by_photograph_over_both_folds(tmp_path, monkeypatch):
    import ablation_folds

    trained = []

    def stage2(**settings):
        """A run whose maps are good where the network has twice the channels, and poor elsewhere."""
        trained.append(settings)
        folder, rng, truth = (
            tmp_path / f"run{len(trained)}",
            np.random.default_rng(settings["fold"]),
            np.zeros(400, bool),
        )
        truth[:40] = True
        write_run(
            folder,
            toy_model(),
            toy_card("segmenter", list(LESIONS), threshold=dict.fromkeys(LESIONS, 0.5), hardware="a drawing board"),
        )
        for lesion in LESIONS:
            maps = [truth * (0.5 if settings["width"] == 0.5 else 0.1) + 0.5 * rng.random(400) for _ in range(6)]
            counted = [few_levels(pixel_histogram(probability.astype(np.float32), truth)) for probability in maps]
            np.savez(
                folder / f"{lesion}_histograms.npz",
                names=np.array([f"idrid:{settings['fold']}-{i}.jpg" for i in range(6)]),
                counts=np.stack([one.counts for one in counted]),
                levels=counted[0].levels,
            )
        return folder

    monkeypatch.setattr(ablation_folds, "run_stage2", stage2)
    command = [
        "ablation_folds",
        str(tmp_path / "table.csv"),
        "--idrid",
        "eyes",
        "--screening",
        "more",
        "--ideas",
        "twice the channels",
        "tiles overlap by a quarter",
        "healthy photographs among the patches",
    ]
    monkeypatch.setattr(sys, "argv", command)
    ablation_folds.main()
    with open(tmp_path / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert (
        [row["idea"] for row in rows[::4]] == command[7:]
        and [row["lesion"] for row in rows[:4]] == list(LESIONS)
        and {row["photos"] for row in rows} == {"12"}
    )
    assert all(float(row["low"]) > 0.1 for row in rows[:4]) and all(float(row["gain"]) == 0 for row in rows[4:])
    assert [(settings["fold"], settings["data_root"]) for settings in trained] == [(0, "eyes"), (1, "eyes")] * 3 + [
        (0, "eyes+more"),
        (1, "eyes+more"),
    ]
    trained.clear()
    monkeypatch.setattr(sys, "argv", command + ["--share", "2", "3"])
    ablation_folds.main()
    assert [
        (settings["width"], settings["fold"], settings["overlap"] if "overlap" in settings else None)
        for settings in trained
    ] == [(0.25, 1, None), (0.25, 0, 0.0), (0.25, 1, None)]


def test_the_table_of_ideas_is_whole():
    import ablation_folds

    with open(REPOSITORY / "results" / "ablation_folds.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["idea"], row["lesion"]) for row in rows] == [
        (idea, lesion) for idea in ablation_folds.IDEAS for lesion in LESIONS
    ]
    assert list(rows[0]) == list(ablation_folds.COLUMNS) and all(
        float(row["low"]) <= float(row["gain"]) <= float(row["high"]) for row in rows
    )
