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
from pathlib import Path

import keras
import numpy as np

from retinal_tl.cards import read_segmenter_card
from retinal_tl.evaluation import read_histograms
from retinal_tl.plans import Plan, plan
from retinal_tl.registries import TRANSFERS
from retinal_tl.runs import forget_models, run
from retinal_tl.studies import make_runs, photos_interval, read_results, seeds_interval, study_parameters
from retinal_tl.transfer_study import Transfer, transfer_plans

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


def plans_of(idea: str, stage1: dict, stage2: dict, classifier: Plan, place: Path, scratch: bool = False) -> list[Plan]:
    """The plans of an idea, or of `scratch` beside it on the same photographs; the last one is compared."""
    arm, changes1, changes2 = IDEAS[idea]
    if scratch:
        arm, changes2 = "scratch", {}
    if changes1 is not None:
        if "data" in changes1:
            stage1 = {name: value for name, value in stage1.items() if name not in ("data", "data_root", "csv")}
        changed = {name: value for name, value in (stage1 | changes1).items() if value is not None}
        classifier = plan("stage1", changed | dict(patience=100, output=str(place)))
    asked = stage2 | dict(transfer=arm, output=str(place))
    asked |= {name: value for name, value in changes2.items() if name != "frozen_epochs"}
    frozen = changes2.get("frozen_epochs")
    if not frozen:
        return [plan("stage2", asked, classifier)]
    first = plan("stage2", asked | dict(transfer="frozen", epochs=frozen), classifier)
    run(first)  # what begins with its weights can be planned when they are there
    thawed = asked | dict(start_run=str(first.folder), epochs=asked["epochs"] - frozen)
    return [first, plan("stage2", thawed, classifier)]


def row(idea: str, folders: list[Path], scratch: list[Path]) -> dict:
    """What an idea gives, against `scratch` with the same seeds and photographs."""
    cards, others = ([read_segmenter_card(folder) for folder in some] for some in (folders, scratch))
    [lesion] = cards[0].lesions
    pixels = [[read_histograms(folder / f"{lesion}_histograms.npz") for folder in some] for some in (folders, scratch)]
    aupr, without = (
        np.array([card.metrics["validation"][lesion]["aupr"] for card in some]) for some in (cards, others)
    )
    classifiers = [next(parent for parent in card.parents if parent.role == "stage1") for card in cards]
    (low, high), (seeds_low, seeds_high) = photos_interval(*pixels), seeds_interval(aupr - without)
    before = [sum(parent.seconds for parent in card.parents if parent.role == "start") for card in cards]
    seconds = [card.training.seconds + earlier for card, earlier in zip(cards, before)]
    return dict(
        idea=idea,
        arm=cards[0].transfer,
        photos=len(pixels[0][0]),
        seeds=len(cards),
        scratch=without.mean(),
        aupr=aupr.mean(),
        gain=(aupr - without).mean(),
        low=low,
        high=high,
        seeds_low=seeds_low,
        seeds_high=seeds_high,
        stage1_auc=np.mean([one.auc for one in classifiers]),
        stage1_minutes=np.mean([one.seconds for one in classifiers]) / 60,
        stage2_minutes=np.mean(seconds) / 60,
    )


def make(planned: Plan) -> Path:
    """The finished run of a plan; the networks of before are let go of."""
    folder = run(planned)
    forget_models()
    return folder


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
    planned = transfer_plans(study, stage1, stage2)
    encoder = next(iter(planned.values())).settings.encoder
    finished = {idea: ([], []) for idea in given.ideas}  # runs of the idea, and of scratch
    seeds = given.seeds or range(study.seed, study.seed + study.seeds)
    wanted = {name: one for name, one in planned.items() if one.settings.seed in seeds}
    runs = make_runs(wanted)
    for idea in given.ideas:
        place = given.runs / "tried" / idea.replace(" ", "_").replace(",", "")
        for seed in seeds:
            what = dict(encoder=encoder, seed=seed, split_seed=study.seed)
            asked = stage2 | what | dict(lesion=study.lesion, patience=stage2["epochs"])
            classifier = wanted[f"stage 1, {encoder}, seed {seed}"]
            of_study = lambda arm: runs[f"{study.lesion}, {encoder}, {arm}, all photographs, seed {seed}"]
            own = lambda scratch: make(plans_of(idea, stage1 | what, asked, classifier, place, scratch)[-1])
            own_split = "data" in (IDEAS[idea][1] or {})  # which eyes may be judged depends on stage 1's
            finished[idea][0].append(of_study(IDEAS[idea][0]) if idea.startswith("as the study") else own(False))
            finished[idea][1].append(own(True) if own_split else of_study("scratch"))
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
