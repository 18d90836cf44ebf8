"""What was tried so that a transfer beats `scratch`: other classifiers, other ways to carry the encoder over.

    python tools/figures/transfer_tried.py results/transfer_tried.csv --study results/transfer_idrid.json --runs runs/

The parameters, the split and the seeds are those of a study of `run_transfer`, whose JSON is given. Its classifiers and
its arms with all photographs are what is compared with: where --runs holds them they are taken, else they are trained.
Where an idea has other photographs for stage 1, other eyes may be judged, and `scratch` is trained anew. Each idea
changes one thing. `--ideas` names some of them, `--seeds` some of the seeds; what is finished is not trained again.
"""

import argparse
import csv
import os
from pathlib import Path

import keras
import numpy as np

import retinal_tl.segmenter
from retinal_tl.cards import read_card
from retinal_tl.encoders import encoder_of
from retinal_tl.runs import run_stage1, run_stage2
from retinal_tl.studies import (
    Transfer,
    find_runs,
    photos_interval,
    read_histograms,
    read_results,
    seeds_interval,
    study_parameters,
    train_jobs,
    transfer_jobs,
)

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
transfer_encoder = retinal_tl.segmenter.transfer_encoder


def train_only(chosen):
    """A way to carry the encoder over in which only some of its layers learn."""

    def carry(classifier, segmenter, transfer):
        segmenter = transfer_encoder(classifier, segmenter, transfer)
        encoder = encoder_of(segmenter)
        encoder.trainable = True  # a layer in an encoder that is not trainable learns nothing, whatever it says itself
        for layer in encoder.layers:
            layer.trainable = bool(chosen(layer))
        return segmenter

    return carry


is_normalization = lambda layer: isinstance(layer, keras.layers.BatchNormalization)
in_later_blocks = lambda layer: layer.name.startswith(("block3", "block4", "block5"))

# idea: arm, changes of stage 1 (None: the study's classifiers), changes of stage 2, the way to carry the encoder over
IDEAS = {
    "as the study, frozen": ("frozen", None, {}, transfer_encoder),
    "as the study, finetune": ("finetune", None, {}, transfer_encoder),
    "classifier of phantoms, exact labels": (
        "finetune",
        dict(data="synthetic", data_root=None, csv=None),
        {},
        transfer_encoder,
    ),
    "classifier trained twice as long": ("finetune", dict(epochs=16), {}, transfer_encoder),
    "classifier with average pooling": ("finetune", dict(pooling="average"), {}, transfer_encoder),
    "classifier with max pooling": ("finetune", dict(pooling="max"), {}, transfer_encoder),
    "first two blocks frozen": ("finetune", None, {}, train_only(in_later_blocks)),
    "frozen but for batch normalization": ("finetune", None, {}, train_only(is_normalization)),
    "frozen, thawed after three epochs of five": ("finetune", None, dict(frozen_epochs=3), transfer_encoder),
    "a tenth of the learning rate": ("finetune", None, dict(learning_rate=2e-4), transfer_encoder),
}


def train(idea: str, seed: int, stage1: dict, stage2: dict, classifier: str, runs: Path, scratch: bool = False) -> Path:
    """The finished run of an idea and a seed, or that of `scratch` beside it, with the same photographs."""
    arm, changes1, changes2, carry = IDEAS[idea]
    if scratch:
        arm, changes2, carry = "scratch", {}, transfer_encoder
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
    retinal_tl.segmenter.transfer_encoder = carry
    try:
        return run_stage2(**asked)
    finally:
        retinal_tl.segmenter.transfer_encoder = transfer_encoder


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
