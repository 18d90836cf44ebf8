"""What was tried so that a transfer beats `scratch`: other classifiers, other transfers, as rows of a table.

    python tools/figures/transfer_tried.py results/transfer_tried.csv --study results/transfer_idrid.json --runs runs/

The parameters, the split and the seeds are those of a study of `run_transfer`, whose JSON is given. Each idea
changes one thing and is compared with the study's arms on all photographs; it uses the study's classifiers. What
--runs holds of the study is taken, the rest is trained. An idea that has other photographs for stage 1 may have to
be judged on other eyes, and then `scratch` is trained anew. `--ideas` picks some of the ideas, `--seeds` some of
the seeds; what is finished is not trained again.
"""

import argparse
import csv
import os
from pathlib import Path

import keras
import numpy as np

from retinal_tl.cards import read_card
from retinal_tl.evaluation import read_histograms
from retinal_tl.registries import TRANSFERS
from retinal_tl.runs import run_stage1, run_stage2
from retinal_tl.studies import (
    find_runs,
    photos_interval,
    read_results,
    seeds_interval,
    study_parameters,
    train_jobs,
    transfer_jobs,
)
from retinal_tl.transfer_study import Transfer

COLUMNS = (
    "idea",
    "arm",
    "photos",
    "seeds",
    "scratch",
    "aupr",
    "gain",
    "low",
    "high",
    "seeds_low",
    "seeds_high",
    "stage1_auc",
    "stage1_minutes",
    "stage2_minutes",
)


def first_blocks_frozen(source: keras.Model, target: keras.Model) -> None:
    """The classifier's weights; the first two blocks keep them."""
    TRANSFERS["finetune"](source, target)
    for layer in target.layers:
        layer.trainable = layer.name.startswith(("block3", "block4", "block5"))


def normalization_only(source: keras.Model, target: keras.Model) -> None:
    """The classifier's weights; only batch normalization learns."""
    TRANSFERS["finetune"](source, target)
    for layer in target.layers:
        layer.trainable = isinstance(layer, keras.layers.BatchNormalization)


TRANSFERS.add("first_blocks_frozen", first_blocks_frozen, stage1=True)
TRANSFERS.add("normalization_only", normalization_only, stage1=True)

# idea: transfer, changes of stage 1 (None: the study's classifiers), changes of stage 2
IDEAS = {
    "as the study, frozen": ("frozen", None, {}),
    "as the study, finetune": ("finetune", None, {}),
    "classifier of phantoms, exact labels": ("finetune", dict(data="synthetic", data_root=None, csv=None), {}),
    "classifier trained twice as long": ("finetune", dict(epochs=16), {}),
    "classifier with average pooling": ("finetune", dict(pooling="average"), {}),
    "classifier with max pooling": ("finetune", dict(pooling="max"), {}),
    "first two blocks frozen": ("first_blocks_frozen", None, {}),
    "frozen but for batch normalization": ("normalization_only", None, {}),
    "frozen, thawed after three epochs of five": ("finetune", None, dict(frozen_epochs=3)),
    "a tenth of the learning rate": ("finetune", None, dict(learning_rate=2e-4)),
}


def train(idea: str, seed: int, stage1: dict, stage2: dict, classifier: str, runs: Path, scratch: bool = False) -> Path:
    """The finished run of an idea and a seed, or that of `scratch` beside it, with the same photographs."""
    arm, changes1, changes2 = IDEAS[idea]
    if scratch:
        arm, changes2 = "scratch", {}
    place = runs / "tried" / idea.replace(" ", "_").replace(",", "")
    place.mkdir(parents=True, exist_ok=True)
    (runs / "cache").mkdir(exist_ok=True)
    if not (place / "cache").exists():
        (place / "cache").symlink_to(os.path.relpath(runs / "cache", place))
    keras.utils.clear_session()
    if changes1 is not None:
        if "data" in changes1:
            stage1 = {name: value for name, value in stage1.items() if name not in ("data", "data_root", "csv")}
        stage1 = {name: value for name, value in (stage1 | changes1).items() if value is not None}
        classifier = str(run_stage1(**stage1 | dict(patience=100, output=str(place))))
    asked = (
        dict(stage2)
        | dict(transfer=arm, stage1_run=classifier, output=str(place))
        | {name: value for name, value in changes2.items() if name != "frozen_epochs"}
    )
    frozen = changes2.get("frozen_epochs")
    if frozen:
        asked |= dict(
            start_run=str(run_stage2(**asked | dict(transfer="frozen", epochs=frozen))), epochs=asked["epochs"] - frozen
        )
    return run_stage2(**asked)


def row(idea: str, folders: list[Path], scratch: list[Path]) -> dict:
    """What an idea gives, against `scratch` with the same seeds and photographs."""
    cards = [read_card(folder) for folder in folders]
    sides = [[read_histograms(folder) for folder in some] for some in (folders, scratch)]
    aupr, without = (
        np.array([read_card(folder)["metrics"]["validation"]["aupr"] for folder in some]) for some in (folders, scratch)
    )
    classifiers = [next(parent for parent in card["parents"] if parent["kind"] == "classifier") for card in cards]
    (low, high), (seeds_low, seeds_high) = photos_interval(*sides), seeds_interval(aupr - without)
    minutes = [
        sum(parent["training"]["seconds"] for parent in card["parents"] if parent["kind"] == "segmenter")
        + card["training"]["seconds"]
        for card in cards
    ]
    return dict(
        idea=idea,
        arm=cards[0]["transfer"],
        photos=len(sides[0][0]),
        seeds=len(cards),
        scratch=without.mean(),
        aupr=aupr.mean(),
        gain=(aupr - without).mean(),
        low=low,
        high=high,
        seeds_low=seeds_low,
        seeds_high=seeds_high,
        stage1_auc=np.mean([one["metrics"]["validation"]["auc"] for one in classifiers]),
        stage1_minutes=np.mean([one["training"]["seconds"] for one in classifiers]) / 60,
        stage2_minutes=np.mean(minutes) / 60,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--study", type=Path, required=True, help="JSON of run_transfer")
    parser.add_argument("--runs", type=Path, required=True, help="folder of its runs, and of those that are made")
    parser.add_argument("--ideas", nargs="+", choices=IDEAS, default=list(IDEAS))
    parser.add_argument("--seeds", nargs="+", type=int, help="only train, for these seeds, and write no table")
    given = parser.parse_args()
    asked_for = read_results(given.study)["provenance"]["parameters"] | dict(
        output=str(given.runs), photos="", attention=False
    )
    study, stage1, stage2 = study_parameters(Transfer, asked_for)
    jobs = transfer_jobs(study, stage1, stage2)
    encoder = next(job.parameters["encoder"] for job in jobs)
    finished = {idea: ([], []) for idea in given.ideas}  # runs of the idea, and of scratch
    seeds = given.seeds or range(study.seed, study.seed + study.seeds)
    jobs = [job for job in jobs if job.parameters["seed"] in seeds]
    runs = train_jobs(jobs, find_runs(jobs))
    for idea in given.ideas:
        for seed in seeds:
            what = dict(encoder=encoder, seed=seed, split_seed=study.seed)
            asked = stage2 | what | dict(lesion=study.lesion, patience=stage2["epochs"])
            of_study = lambda arm: runs[f"{study.lesion}, {encoder}, {arm}, all photographs, seed {seed}"]
            trained = lambda scratch: train(
                idea, seed, stage1 | what, asked, str(runs[f"stage 1, {encoder}, seed {seed}"]), given.runs, scratch
            )
            own_split = "data" in (
                IDEAS[idea][1] or {}
            )  # which eyes may be judged depends on those that stage 1 has seen
            finished[idea][0].append(of_study(IDEAS[idea][0]) if idea.startswith("as the study") else trained(False))
            finished[idea][1].append(trained(True) if own_split else of_study("scratch"))
    if given.seeds:
        return
    rows = [row(idea, *sides) for idea, sides in finished.items()]
    with open(given.table, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(
            {name: round(value, 4) if isinstance(value, float) else value for name, value in one.items()}
            for one in rows
        )


if __name__ == "__main__":
    main()
