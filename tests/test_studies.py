"""The tables and the transfer study at toy size: what they reuse, a kill in the middle, and the dry run.

One test trains, in processes of its own, and is killed half-way. The others put a double in the place of `run`: it
leaves a run folder as that does, with the card that the plan asks for, and no training behind it.
"""

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest

from retinal_tl.cards import read_card, write_card
from retinal_tl.core import RetinalError, file_digest
from retinal_tl.folds import RECIPE, run_folds
from retinal_tl.leakage import read_signatures, write_signatures
from retinal_tl.metrics import BINS, PixelHistogram, average_precision, pixel_histogram
from retinal_tl.paper_tables import Tables, run_tables, table_plans
from retinal_tl.plans import Plan
from retinal_tl.readers import open_data
from retinal_tl.run_folders import first_card
from retinal_tl.selection import cache_of
from retinal_tl.start_pictures import lesions_table, plot_starts, seconds_table, starts_table
from retinal_tl.studies import read_results, study_parameters
from retinal_tl.synthetic import write_synthetic
from retinal_tl.transfer_arms import STUDIED_STARTS, Transfer, transfer_plans
from retinal_tl.transfer_pictures import plot_attention, plot_learning, plot_photos
from retinal_tl.transfer_study import run_transfer
from toy_runs import toy_model

pytestmark = [pytest.mark.slow, pytest.mark.long]

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


def silent(line: str) -> None:
    """A report that nobody reads."""


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> str:
    return str(write_synthetic(tmp_path_factory.mktemp("data") / "phantoms", count=24, size=160, seed=1, workers=2))


def process(parameters: dict) -> subprocess.Popen:
    call = f"run_transfer(lambda line: print(line, flush=True), **{parameters!r})"
    code = f"from retinal_tl.transfer_study import run_transfer; {call}"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
@pytest.mark.long
def test_a_killed_study_goes_on(phantoms, tmp_path):
    parameters = KILLED | dict(data_root=phantoms, output=str(tmp_path / "runs"), results=str(tmp_path / "results"))
    broken = process(parameters)
    before = []
    for line in broken.stdout:
        before.append(line)
        if line.startswith("epoch 1/2:"):
            break
    broken.send_signal(signal.SIGKILL)
    broken.wait()
    broken.stdout.close()
    first = next(line for line in before if "trainings:" in line)
    assert first.startswith("3 trainings: 0 finished before, 0 to go on with, 3 to make."), before
    assert not (tmp_path / "results").exists()

    again = process(parameters)
    said, _ = again.communicate(timeout=900)
    counted = "3 trainings: 1 finished before, 1 to go on with, 1 to make."
    assert again.returncode == 0 and counted in said and "goes on" in said, said
    assert "1 of 3: " not in said and said.count("epoch 1/2:") == 1  # not the stage 1, not the epoch that was done
    cards = [read_card(path.parent) for path in (tmp_path / "runs").glob("stage2-*/card.json")]
    assert {card.transfer for card in cards} == {"scratch", "frozen"}
    assert cards[0].split == cards[1].split and cards[0].parents == cards[1].parents
    results = read_results(tmp_path / "results" / "transfer_folder.json")
    for row in results["rows"]:
        folder = tmp_path / "runs" / row["run"]
        with open(folder / "history.csv", newline="") as file:
            history = list(csv.DictReader(file))
        if row["measured"] == "at the end":
            assert row["aupr"] == read_card(folder).metrics["validation"]["hemorrhages"]["aupr"]
        else:
            assert float(history[row["step"] // 2 - 1]["aupr"]) == row["aupr"]
    assert len(results["rows"]) == 2 * (2 + 1) and all(one["photos_interval"] for one in results["comparisons"])


def few_levels(histogram: PixelHistogram) -> PixelHistogram:
    """A histogram of which thousands of drawings are quickly made."""
    levels = np.arange(0, BINS, 512)
    return PixelHistogram(np.add.reduceat(histogram.counts, levels, axis=1), levels)


class Double:
    """Stands for `run`: folders with the right cards, `finetune` better than `scratch`, that better than `frozen`."""

    LEVEL = {"finetune": 2.4, "scratch": 2.0, "frozen": 1.6}

    def __init__(self):
        self.trained: list[str] = []

    def __call__(self, plan: Plan, report) -> Path:
        for parent in plan.parents:
            assert read_card(parent.folder).run_id == parent.run_id, "stage 1 comes first"
        folder, names = plan.folder, sorted(one.name for one in plan.split.validation)
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(
            toy_model("segmenter" if plan.lesions else "classifier").SerializeToString()
        )
        (folder / "model.keras").write_text(plan.run_id)
        files = {name: file_digest(folder / name) for name in ("model.onnx", "model.keras")}
        write_signatures(folder / "signatures.npz", plan.guarded.signatures)
        judged = {one.name: one.photo for one in plan.split.validation}
        write_signatures(folder / "validation_signatures.npz", read_signatures(judged, cache_of(plan.settings))[0])
        figures = self._segmenter(plan, folder, names) if plan.lesions else self._classifier()
        card = first_card(plan, "a double")
        training = replace(card.training, seconds=10.0, epochs=plan.settings.epochs)
        write_card(folder, replace(card, status="finished", files=files, training=training, metrics=figures))
        self.trained.append(folder.name)
        return folder

    def _classifier(self) -> dict:
        figures = dict(accuracy=0.75, recall=0.5, precision=1.0, auc=0.875, trivial_accuracy=0.5, images=6)
        return dict(validation=figures | dict(accuracy_interval=[0.5, 1.0], auc_interval=[0.75, 1.0]))

    def _segmenter(self, plan: Plan, folder: Path, names: list[str]) -> dict:
        settings, first = plan.settings, plan.parent("stage1")
        skill = self.LEVEL[settings.transfer] + np.log10(len(plan.split.training)) / 4 + settings.seed / 10
        begun = [plan, first.plan if first else None]
        skill += 0.8 * any(one is not None and one.weights is not None for one in begun)
        figures = {lesion: self._lesion(plan, folder, lesion, names, skill) for lesion in plan.lesions}
        several = [f"aupr_{lesion}" for lesion in plan.lesions] if len(plan.lesions) > 1 else []
        each = [one["aupr"] for one in figures.values()]
        rows = [",".join(map(str, ["epoch", "loss", "learning_rate", "aupr", *several, "seconds"]))]
        for i in range(settings.epochs):
            on_the_way = [aupr * (i + 1) / settings.epochs for aupr in (np.mean(each), *each[: len(several)])]
            rows.append(",".join(map(str, [i + 1, 1, 0.001, *on_the_way, 2.5])))
        (folder / "history.csv").write_text("\n".join(rows) + "\n")
        return dict(validation=figures)

    def _lesion(self, plan: Plan, folder: Path, lesion: str, names: list[str], skill: float) -> dict:
        counted = {}
        for i, name in enumerate(names):
            rng = np.random.default_rng(i)
            mask = rng.random(3000) < 0.05
            score = mask * skill + rng.normal(size=3000)
            counted[name] = few_levels(pixel_histogram(1 / (1 + np.exp(-score)), mask))
        counts = np.stack([one.counts for one in counted.values()])
        levels = counted[names[0]].levels
        np.savez(folder / f"{lesion}_histograms.npz", names=np.array(names), counts=counts, levels=levels)
        aupr = average_precision(sum(counted.values()))
        each = [dict(name=name, aupr=average_precision(one)) for name, one in counted.items()]
        figures = dict(aupr=aupr, dice=0.5, accuracy=0.9, sensitivity=0.8, specificity=0.95, trivial_accuracy=0.95)
        intervals = dict(aupr_interval=[aupr / 2, aupr * 1.5], dice_interval=[0.25, 0.75])
        return figures | intervals | dict(images=len(names), per_image=each, threshold=0.5)


@pytest.fixture
def places(phantoms, tmp_path) -> dict:
    return dict(data_root=phantoms, output=str(tmp_path / "runs"), results=str(tmp_path / "results"))


def test_the_study_finds_what_was_put_into_it(places):
    double = Double()
    results = read_results(run_transfer(silent, double, **TRANSFER | places))
    assert len(double.trained) == 3 * (4 + 2 * 3 + 4) and len(results["rows"]) == 3 * (3 + 2 * 3 + 3) * (2 + 1)
    counts = {row["photos"] for row in results["rows"]}
    assert {2, 5} < counts and len(counts) == 3
    for one in results["comparisons"]:
        if one["minus"] == "scratch":
            better = [one["aupr"] > 0, one["photos_interval"][0] > 0, one["seeds_interval"][0] > 0]
            assert better == [one["arm"] == "finetune"] * 3
        if one["minus"] == "without CBAM":  # the double knows no attention
            assert one["aupr"] == pytest.approx(0) and one["photos_interval"] == pytest.approx([0, 0])
    kinds = [one["minus"] for one in results["comparisons"]]
    assert kinds.count("scratch") == 2 * 4 and kinds.count("without CBAM") == 3
    times = {one["arm"]: one for one in results["times"]}
    assert times["finetune"]["steps"] == 4 and times["finetune"]["seconds_with_stage1"] == 5 + 10
    assert times["scratch"]["seconds_with_stage1"] == 5
    assert times["frozen"]["reached"] == 0 and times["frozen"]["steps"] is None
    assert len(plot_learning(results).axes) == 3 and len(plot_photos(results).axes[0].get_xticks()) == 3
    assert len(plot_attention(results).axes[0].lines) == 3
    origin = results["provenance"]
    assert origin["command"].startswith("papermill nbs/run_transfer.ipynb") and "-p photos 2+5" in origin["command"]
    assert origin["seeds"] == [0, 1, 2] and origin["split"]["seed"] == [0]
    assert {"data", "split", "hardware", "versions", "commit", "runs"} <= set(origin)
    assert len(origin["runs"]) == len(double.trained) and len(results["stage1"]) == 6
    assert {row["run"] for row in results["rows"]} <= {run["folder"] for run in origin["runs"].values()}


STARTS = TINY | dict(
    lesion="all",
    encoder="efficientnet_lite0",
    width=1,
    starts="+".join(STUDIED_STARTS),
    photos="1",
    seeds=2,
    stage1_data="csv",
    phantoms_data="folder",
)


def test_starts_are_judged_on_eyes_that_none_has_seen(places, phantoms, tmp_path):
    """The photographs of stage 1 show the same eyes under other names; natural images are worth something."""
    drawn = str(write_synthetic(tmp_path / "drawn", count=6, size=160, seed=3, workers=2))
    begun = STARTS | places | dict(stage1_data_root=phantoms, phantoms_data_root=drawn, longer=8)
    double = Double()
    path = run_transfer(silent, double, **begun)
    assert path.name == "starts_folder.json"
    results = read_results(path)
    guard, ends = results["guard"], [row for row in results["rows"] if row["measured"] == "at the end"]
    assert guard["runs"] == len(double.trained) == 2 * (4 + 2 * 12 + 2)
    of_eyes = [guard["left_out"][one["run"]] for one in results["stage1"] if one["data"] == "csv"]
    assert len(of_eyes) == 2 * 2 and set(of_eyes) == {len(guard["judged"])}
    starts = {(row["start"], row["arm"]) for row in ends}
    assert len(starts) == 12 and {start for start, _ in starts} == set(STUDIED_STARTS)
    assert {row["lesion"] for row in ends} == {"exudates", "hemorrhages", "microaneurysms", "soft_exudates", "mean"}
    gains = {
        (one["start"], one["arm"], one["minus"]): one["aupr"]
        for one in results["comparisons"]
        if one["lesion"] == "mean" and one["all_photos"] and one["steps"] == 4 and one["minus"]
    }
    assert gains["natural", "finetune", "scratch"] > gains["eyes", "finetune", "scratch"] > 0
    assert gains["natural_eyes", "frozen", "natural"] == pytest.approx(0)
    assert gains["eyes", "frozen", "natural"] < 0 and ("random", "scratch", "natural") not in gains
    assert {arm for start, arm, minus in gains if start == "random"} == {"frozen"}
    equal = {(one["arm"], one["minus"]): one for one in results["equal_seconds"]}
    # 10 seconds of stage 1 and 5 of stage 2; scratch, 16 epochs of 2.5 seconds, has had 6 of them by then
    assert equal["eyes, finetune", "scratch"]["seconds"] == 15 and equal["eyes, finetune", "scratch"]["ended"] == 0
    assert equal["eyes, finetune", "scratch"]["aupr"] > 0
    whole = [row for row in ends if row["lesion"] == "mean" and row["all_photos"]]
    came_to = lambda *what: np.mean([row["aupr"] for row in whole if (row["start"], row["arm"], row["steps"]) == what])
    gained = came_to("eyes", "frozen", 4) - 6 / 16 * came_to("natural", "finetune", 32)  # of which 6 epochs had passed
    assert equal["eyes, frozen", "natural, finetune"]["aupr"] == pytest.approx(gained)
    assert len(plot_starts(results).axes[0].lines) == 12 and "all " in starts_table(results, "scratch")
    assert "soft exudates" in lesions_table(results) and seconds_table(results).count("\n") == 1 + 11 + 11
    run_transfer(silent, double, **begun)
    assert len(double.trained) == guard["runs"]  # nothing is made twice


def test_starts_that_cannot_be(places):
    for wrong, part in [
        (dict(encoder="vgg16"), "No package has weights of vgg16"),
        (dict(width=0.5), "give width 1"),
        (dict(starts="natural+eyes"), "lacks 'random'"),
        (dict(starts="random+nature"), "natural"),
    ]:
        with pytest.raises(RetinalError, match=part):
            run_transfer(silent, **STARTS | places | wrong)


def states(small: dict, **changes: object) -> list[str]:
    """What is there of a study, a word for each plan."""
    plans = transfer_plans(*study_parameters(Transfer, small | changes))
    return [plan.state for plan in plans.values()]


def test_what_is_finished_is_not_trained_again(places, tmp_path, phantoms):
    small, double = TRANSFER | places | dict(attention=False, photos=""), Double()
    path = run_transfer(silent, double, **small)
    first, trained = path.with_suffix(".csv").read_bytes(), len(double.trained)
    assert run_transfer(silent, double, **small).with_suffix(".csv").read_bytes() == first
    assert len(double.trained) == trained == 3 * 4
    run_transfer(silent, double, **small | dict(photos="5"))
    assert len(double.trained) == trained + 3 * 3  # a larger study begins with the runs of the smaller one
    assert states(small).count("finished") == 12 and states(small, epochs=3).count("finished") == 3
    assert states(small, seeds=1).count("finished") == 4
    elsewhere = dict(output=str(tmp_path / "elsewhere"))
    for changes in (dict(stage1_epochs=2), dict(seed=7), dict(diameter=240), elsewhere):
        assert "finished" not in states(small, **changes)


def test_a_subset_of_the_photographs_is_another_study(places, tmp_path, phantoms):
    """Runs and studies disagreed: a study took runs whose photographs were a part of its own."""
    small, double = TRANSFER | places | dict(attention=False, photos="", seeds=1), Double()
    run_transfer(silent, double, **small)
    fewer = write_synthetic(tmp_path / "fewer", count=23, size=160, seed=1, workers=2)
    assert "finished" in states(small) and "finished" not in states(small | dict(data_root=str(fewer)))
    assert {path.name for path in (fewer / "images").iterdir()} < {
        path.name for path in Path(phantoms, "images").iterdir()
    }


def test_one_stage1_for_all_seeds(places):
    double = Double()
    run_transfer(silent, double, **TRANSFER | places | dict(attention=False, photos="", seeds=1, arms="scratch"))
    given = dict(stage1_run=str(Path(places["output"]) / double.trained[0]), encoder=None, width=None)
    plans = transfer_plans(*study_parameters(Transfer, TRANSFER | places | given))
    assert {plan.stage for plan in plans.values()} == {"stage2"} and len(plans) == 3 * 3 * 3
    assert {plan.parent("stage1").folder.name for plan in plans.values()} == {double.trained[0]}
    assert {(plan.settings.encoder, plan.settings.width) for plan in plans.values()} == {("vgg16", 0.05)}
    second = str(Path(places["output"]) / double.trained[1])
    for wrong, part in ((given | dict(encoder="resnet50"), "leave encoder out"), (dict(stage1_run=second), "stage 1")):
        with pytest.raises(RetinalError, match=part):
            transfer_plans(*study_parameters(Transfer, TRANSFER | places | wrong))
    results = read_results(run_transfer(silent, double, **TRANSFER | places | given | dict(photos="")))
    assert len(results["stage1"]) == 1 and results["stage1"][0]["run"] == double.trained[0]


def test_judged_on_other_photographs_is_refused(places):
    double = Double()
    path = run_transfer(silent, double, **TRANSFER | places | dict(attention=False, photos="", seeds=1))
    assert path.exists()
    for name in double.trained:
        folder = Path(places["output"]) / name
        card = read_card(folder)
        if card.kind == "segmenter":
            write_card(folder, replace(card, split=replace(card.split, validation=("folder:other.jpg",))))
            break
    with pytest.raises(RetinalError, match="judged on other photographs"):
        run_transfer(silent, double, **TRANSFER | places | dict(attention=False, photos="", seeds=1))


def test_tables(places):
    double = Double()
    assert len(table_plans(*study_parameters(Tables, TABLES | places))) == 2 * (1 + 2)
    said: list[str] = []
    assert run_tables(said.append, double, **TABLES | places | dict(dry=True)) is None and not double.trained
    assert said[0].startswith("6 trainings: 0 finished before, 0 to go on with, 6 to make.")
    path = run_tables(silent, double, **TABLES | places)
    results = read_results(path)
    assert len(double.trained) == 2 * (1 + 2)
    key = lambda row: (row["table"], row["lesion"], row["method"], row["metric"])
    mine = {key(row): row for row in results["rows"] if row["source"].startswith("this study, ")}
    assert [mine[1, None, "resnet50_cbam", "auc"][name] for name in ("value", "low", "high")] == [0.875, 0.75, 1.0]
    assert mine[2, "hemorrhages", "vgg16", "dice"]["high"] == 0.75
    assert mine[2, "exudates", "vgg16", "hours"]["value"] == pytest.approx(10 / 3600)
    assert len(mine) == 2 * 6 + 4 * 7
    printed = [row for row in results["rows"] if row["source"].startswith("published")]
    by_key = {key(row): row["value"] for row in printed if row["lesion"] in (None, "hemorrhages")}
    assert by_key[1, None, "vgg16", "recall"] == 0.92 and by_key[2, "hemorrhages", "vgg16", "sensitivity"] == 0.8021
    assert by_key[2, "hemorrhages", "Aziz", "f1"] == 0.7225
    assert path.with_name(results["figure"]).read_bytes().startswith(b"\x89PNG")
    run_tables(silent, double, **TABLES | places)
    assert len(double.trained) == 2 * (1 + 2)


class Deadly(Double):
    """A double of which one training takes its worker down once, one itself once, and one itself always."""

    def __init__(self, place: Path):
        super().__init__()
        self.place = place

    def __call__(self, plan: Plan, report) -> Path:
        what = plan.lesions[0] if plan.lesions else "stage 1"
        first = not (self.place / what).exists()
        (self.place / what).touch()
        if what == "stage 1" and first:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)  # it ends with its worker
        if what == "exudates" or first and what == "hemorrhages":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(plan, report)


def test_trainings_of_workers_that_die(places, tmp_path):
    """Tried again, or set aside and named; the same command makes what is missing; the same table as without."""
    small, said = TABLES | places | dict(encoders="vgg16"), []
    with pytest.raises(RetinalError, match="1 of 3 trainings could not be made .exudates, vgg16, frozen: two proc"):
        run_tables(said.append, Deadly(tmp_path), **small | dict(workers=2))
    assert sum("handed out" in line for line in said) == 3 and not (tmp_path / "results").exists()
    again, said = Double(), []
    table = run_tables(said.append, again, **small).with_suffix(".csv").read_bytes()
    assert len(again.trained) == 1 and said[0].startswith("3 trainings: 2 finished before")
    other = small | dict(output=str(tmp_path / "other"), results=str(tmp_path / "others"))
    assert run_tables(silent, Double(), **other).with_suffix(".csv").read_bytes() == table
    with pytest.raises(RetinalError, match="workers or scheduler, not both"):
        run_tables(silent, again, **small | dict(workers=2, scheduler="tcp://10.0.0.7:8786"))


FOLDS = TINY | dict(lesion="hemorrhages+exudates", encoder="vgg16", transfer="scratch", folds=3)
FOLDS |= dict(ideas="transfer=finetune; loss=bce")


def test_folds(places, tmp_path):
    """What was put in is found; the second start trains nothing; workers change nothing."""
    double = Double()
    path = run_folds(silent, double, **FOLDS | places)
    results = read_results(path)
    assert len(double.trained) == 3 * (1 + 1 + 2) and len(results["rows"]) == 3 * 3
    rows = {(row["idea"], row["lesion"]): row for row in results["rows"]}
    assert {row["photos"] for row in rows.values()} == {24} and rows[RECIPE, "mean"]["gain"] is None
    for lesion in ("hemorrhages", "exudates", "mean"):
        assert rows["transfer=finetune", lesion]["gain_low"] > 0  # the double makes it so
        assert rows["loss=bce", lesion]["gain"] == 0 and rows["loss=bce", lesion]["gain_high"] == 0
    for folder in double.trained:  # no stage 1 has seen an eye that its fold judges
        card = read_card(tmp_path / "runs" / folder)
        judged = {one.name: one.eye for one in open_data("folder", places["data_root"]).examples}
        for parent in card.parents:
            assert not set(parent.training_eyes) & {judged[name] for name in card.split.validation}
    run_folds(silent, double, **FOLDS | places)
    assert len(double.trained) == 12
    other = places | dict(output=str(tmp_path / "other"), results=str(tmp_path / "others"))
    shared = run_folds(silent, Double(), **FOLDS | other | dict(workers=2))
    assert shared.with_suffix(".csv").read_bytes() == path.with_suffix(".csv").read_bytes()


def papermill(notebook: str, output: Path, parameters: dict, cwd: Path) -> str:
    words = [word for name, value in parameters.items() for word in ("-p", name, str(value))]
    command = [sys.executable, "-m", "papermill", str(REPOSITORY / "nbs" / notebook), str(output), *words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr[-3000:]
    return "\n".join(str(output) for cell in nbformat.read(output, 4).cells for output in cell.get("outputs", []))


@pytest.mark.slow
def test_the_notebooks_draw_from_the_files(places, tmp_path):
    """Everything was made before; the notebooks, in kernels without the double, find it."""
    double = Double()
    run_transfer(silent, double, **TRANSFER | places)
    shown = papermill("run_transfer.ipynb", tmp_path / "transfer.ipynb", TRANSFER | places, tmp_path)
    assert "42 finished before, 0 to go on with, 0 to make" in shown and shown.count("image/png") == 3
    assert "AUPR minus that of scratch" in shown and "AUPR minus that without CBAM" in shown
    run_tables(silent, double, **TABLES | places)
    shown = papermill("run_tables.ipynb", tmp_path / "tables.ipynb", TABLES | places, tmp_path)
    assert "6 finished before" in shown and shown.count("image/png") == 1
    assert "published by Ortiz-Feregrino et al., on other data" in shown


def test_a_dry_run_trains_nothing(phantoms, tmp_path):
    places = dict(data_root=phantoms, output=str(tmp_path / "runs"), results=str(tmp_path / "results"))
    said: list[str] = []
    assert run_tables(said.append, **TABLES | places | dict(dry=True)) is None
    assert said[0] == "6 trainings: 0 finished before, 0 to go on with, 6 to make."
    assert any("hemorrhages, resnet50_cbam, frozen" in line for line in said)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["cache"]


def test_wrong_parameters_are_found_before_any_work(tmp_path):
    for function, wrong, part in [
        (run_tables, dict(lesion="exudates"), "by the study"),
        (run_tables, dict(encoders="vgg61"), "vgg16"),
        (run_tables, dict(epochs=0), "epochs"),
        (run_transfer, dict(arms="frozen"), "scratch"),
        (run_transfer, dict(stage1_run=str(tmp_path / "nowhere")), "no such run"),
    ]:
        with pytest.raises(RetinalError, match=part):
            function(silent, **dict(output=str(tmp_path / "runs")) | wrong)
    assert not list(tmp_path.iterdir())
