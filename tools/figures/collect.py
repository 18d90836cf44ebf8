"""Write the figures of finished runs, with their provenance, into one small JSON file.

    python tools/figures/collect.py results/idrid.json runs/stage1-...@COMMIT runs/stage2-...@COMMIT

The commit is that of the code that trained the run. Precision-recall curves and lists of photographs stay in the cards.
"""

import argparse
import csv
import json
from collections.abc import Mapping
from pathlib import Path

from retinal_tl.cards import Parent, card_to_json, read_card
from retinal_tl.core import write_text

DROPPED = {"curve", "per_image"}
LONG = 20  # a longer list is a curve, or names photographs
KEPT = (
    "name",
    "run_id",
    "kind",
    "created",
    "lesions",
    "transfer",
    "encoder",
    "width",
    "preprocessing",
    "tile",
    "overlap",
    "threshold",
    "thresholds",
    "training",
    "versions",
    "hardware",
    "command",
)


def small(value: object) -> object:
    """The value without long lists and names of photographs."""
    if not isinstance(value, Mapping):
        return value
    return {
        name: small(entry)
        for name, entry in value.items()
        if name not in DROPPED and not (isinstance(entry, (list, tuple)) and len(entry) > LONG)
    }


def parent_summary(parent: Parent) -> dict:
    """What is worth keeping of a run that another was built on."""
    return {name: getattr(parent, name) for name in ("role", "run_id", "name", "kind", "seconds")}


def summary(folder: Path, commit: str) -> dict:
    """What is worth keeping of a run's card."""
    card = card_to_json(read := read_card(folder))
    return {name: card[name] for name in KEPT if name in card} | dict(
        commit=commit,
        data=read.data.name,
        photos={part: len(names) for part, names in card["split"].items()},
        parents=[parent_summary(parent) for parent in read.parents],
        metrics=small(card["metrics"]),
        history=history(folder),
    )


def history(folder: Path) -> list[dict]:
    """What was measured after each epoch, as numbers."""
    with open(folder / "history.csv", newline="", encoding="utf-8") as file:
        return [
            {name: round(float(value), 4) for name, value in row.items() if value and name != "learning_rate"}
            for row in csv.DictReader(file)
        ]


def run_and_commit(text: str) -> tuple[Path, str]:
    """A folder and a commit, from RUN@COMMIT."""
    folder, _, commit = text.rpartition("@")
    if not folder or not commit:
        raise argparse.ArgumentTypeError(f"{text} is not RUN@COMMIT")
    return Path(folder), commit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("runs", nargs="+", type=run_and_commit, metavar="RUN@COMMIT")
    given = parser.parse_args()
    found = [summary(folder, commit) for folder, commit in given.runs]
    write_text(given.target, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
