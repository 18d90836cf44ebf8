"""Write the figures of finished runs, with their provenance, into one small JSON file.

    python tools/figures/collect.py results/idrid.json runs/stage1-...@COMMIT runs/stage2-...@COMMIT

The commit is that of the code that trained the run. Precision-recall curves and lists of photographs stay in the cards.
"""

import argparse
import csv
import json
from pathlib import Path

from retinal_tl.cards import card_to_json, read_card

DROPPED = {"curve", "per_image"}


def small(value):
    """The value without long lists and names of photographs."""
    if not isinstance(value, dict):
        return value
    return {
        name: small(entry)
        for name, entry in value.items()
        if name not in DROPPED and not (isinstance(entry, list) and len(entry) > 20)
    }


def summary(folder: Path, commit: str) -> dict:
    """What is worth keeping of a run's card."""
    card = read_card(folder)
    values = card_to_json(card)
    kept = {
        name: value for name, value in values.items() if name not in ("split", "data", "files", "limits", "licence")
    }
    return kept | dict(
        commit=commit,
        data=card.data.name,
        photos={part: len(getattr(card.split, part)) for part in ("training", "validation", "test")},
        parents=[dict(name=one.name, kind=one.kind, seconds=one.seconds) for one in card.parents],
        metrics={part: small(result) for part, result in card.metrics.items()},
        history=history(folder),
    )


def history(folder: Path) -> list[dict]:
    """What was measured after each epoch, as numbers."""
    with open(folder / "history.csv", newline="", encoding="utf-8") as file:
        return [
            {name: round(float(value), 4) for name, value in row.items() if value and name != "learning_rate"}
            for row in csv.DictReader(file)
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("runs", nargs="+", metavar="RUN@COMMIT")
    arguments = parser.parse_args()
    arguments.target.parent.mkdir(exist_ok=True)
    found = [summary(Path(folder), commit) for folder, _, commit in (run.rpartition("@") for run in arguments.runs)]
    arguments.target.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
