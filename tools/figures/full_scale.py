"""What a start is worth at full scale: a run that began with natural images, and the same run with two other starts.

    python tools/figures/full_scale.py RUN results/starts_full_scale.csv --data-root IDRiD+DR-screening \\
        --csv labels.csv --graded DR-screening --graded-csv labels.csv --output runs

RUN is a finished run of stage 2 with the start `natural`. The others differ from it in how the encoder begins, and in
nothing else but that a random one learns as fast as the decoder: `random`, and `natural_eyes`, where a classifier of
graded photographs stands between natural images and outlines. All are judged on the photographs that RUN was judged on,
whose eyes that classifier has not seen. Finished runs in --output are used again.
"""

import argparse
import csv
from pathlib import Path

from retinal_tl.cards import read_segmenter_card
from retinal_tl.core import RetinalError
from retinal_tl.folds import RECIPE, fold_rows, pooled
from retinal_tl.plans import Plan, plan
from retinal_tl.runs import run
from retinal_tl.settings import Stage1
from retinal_tl.studies import to_the_last_step
from retinal_tl.transfer_arms import kept_back

CLASSIFIER = dict(preset="best", start="natural", diameter=720, image_size=720, batch_size=8, epochs=4)


def planned(given: argparse.Namespace) -> dict[str, Plan]:
    """The runs by start, stage 1 before what needs it. Raises `RetinalError` unless RUN is as it should be."""
    card = read_segmenter_card(given.run, "RUN")
    settings = {name: value for name, value in card.training.settings.items() if value is not None}
    settings |= dict(data_root=given.data_root, csv=given.csv, output=str(given.output))
    natural = plan("stage2", settings)
    if settings.get("start") != "natural" or not given.run.name.endswith(natural.run_id):
        raise RetinalError(f"{given.run} is not the run of these data and settings with the start natural.")
    back, plain = kept_back(natural), {name: value for name, value in settings.items() if name != "start"}
    shared = {name: settings[name] for name in ("encoder", "width", "precision", "seed", "output")}
    graded = dict(data="csv", data_root=given.graded, csv=given.graded_csv, steps_per_epoch=given.steps)
    first = plan("stage1", to_the_last_step(Stage1, CLASSIFIER | shared | graded), kept_back=back)
    return {
        "stage 1": first,
        "natural_eyes": plan("stage2", plain, first, back),
        "random": plan("stage2", plain | dict(transfer="scratch", encoder_rate=1.0), kept_back=back),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("table", type=Path)
    for name in ("--data-root", "--csv", "--graded", "--graded-csv"):
        parser.add_argument(name, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs"))
    parser.add_argument("--steps", type=int, default=30, help="of the classifier, in each of its four epochs")
    parser.add_argument("--plan", action="store_true", help="say what would be trained, and no more")
    given = parser.parse_args()
    plans = planned(given)
    if given.plan:
        print(*plans.values(), sep="\n")
        return
    ideas, seconds = {RECIPE: pooled([given.run])}, {}
    for start, one in plans.items():
        folder = run(one)
        if start != "stage 1":
            ideas[start] = pooled([folder])
            seconds[start] = read_segmenter_card(folder, "RUN").training.seconds
    rows = [dict(one, idea="natural" if one["idea"] == RECIPE else one["idea"]) for one in fold_rows(ideas)]
    with open(given.table, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    for one in rows:
        print(*(one[name] for name in ("idea", "lesion", "aupr", "gain", "gain_low", "gain_high")))
    print({start: f"{value:.0f} s" for start, value in seconds.items()})


if __name__ == "__main__":
    main()
