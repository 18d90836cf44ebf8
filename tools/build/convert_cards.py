"""Bring cards of schema version 1, and summaries of them in results/, to version 2: nothing else reads the old ones.

    python tools/build/convert_cards.py FOLDER ... [--table LABELS.CSV] [--backend jax] [--precision mixed_bfloat16]
    python tools/build/convert_cards.py results/demo.json results/idrid.json

FOLDER holds a card.json, which is written anew; the files beside it are left alone. A version 1 card does not hold all
that version 2 asks for, so some of it has to be said here:

--table          the table of `csv` data: photographs get their names in it, relative to the folder of the data
--backend, --precision   what trained the model (default: what follows from the packages and the hardware in the card)
--pseudo-labels  the segmenter that a run began with was also the one whose maps it learned from
"""

import argparse
import csv
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from retinal_tl.cards import (
    Card,
    ClassifierCard,
    DataFacts,
    Head,
    Parent,
    SegmenterCard,
    SplitNames,
    TrainingFacts,
    read_card,
    write_card,
)
from retinal_tl.preprocess import Preprocessing

FLIPS = {None: "none", False: "none", True: "all", "half turn": "half_turn"}
RENAMED = {"alarm_share": "hard_negative_share", "teacher_run": "pseudo_label_run"}
Rename = Callable[[str], str]


def renaming(table: Path | None, known: set[str]) -> Rename:
    """A function from a photograph's old name, with or without its data set, to its new one."""
    found: dict[str, list[str]] = {}
    if table is not None:
        with open(table, newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file):
                found.setdefault(Path(row["image"]).name, []).append(f"csv:{row['image']}")

    def rename(name: str) -> str:
        source, _, photo = name.rpartition(":")
        if source in ("", "csv") and photo in found:
            [name] = found[photo]  # one of a kind, or it cannot be told which
        elif not source:
            name = next((one for one in sorted(known) if one.partition(":")[2] == photo), name)
        return name

    return rename


def run_id(name: str) -> str:
    """The digits at the end of a run's name."""
    found = re.search(r"-([0-9a-f]{8})$", name)
    if not found:
        raise SystemExit(f"{name} does not end in eight hexadecimal digits, so it has no run id")
    return found[1]


def settings_of(training: Mapping) -> dict:
    """The parameters of a run under their names of today."""
    what = {RENAMED.get(name, name): value for name, value in training.items()}
    if "flips" in what:
        what["flips"] = FLIPS[what["flips"]]
    return {name: value for name, value in what.items() if name not in ("seconds", "epochs_trained")}


def training_of(old: Mapping, backend: str | None = None, precision: str | None = None) -> TrainingFacts:
    """How a model was trained, of a card or a summary."""
    training, versions = old["training"], old["versions"]
    asked = training.get("precision", "auto")
    resolved = asked if asked != "auto" else "mixed_bfloat16" if old["hardware"].startswith("NVIDIA") else "unknown"
    return TrainingFacts(
        settings=settings_of(training),
        backend=backend or ("tensorflow" if "tensorflow" in versions else "jax"),
        precision=precision or resolved,
        seconds=training["seconds"],
        epochs=training["epochs_trained"],
    )


def by_lesion(lesions: list[str], metrics: Mapping) -> dict:
    """Results of a segmenter, part → lesion → result."""
    nested: dict[str, dict] = {}
    for key, result in metrics.items():
        part, _, lesion = key.partition(", ")  # a summary's key was 'validation, exudates' where there were several
        if "images" in result:
            nested.setdefault(part, {})[lesion or lesions[0]] = result
        else:
            nested[part] = result
    return nested


def with_new_names(metrics: Mapping, rename: Rename) -> dict:
    """The same results; photographs in them by their new names."""
    renamed = json.loads(json.dumps(metrics))
    for result in (result for part in renamed.values() for result in part.values()):
        for one in result.get("per_image", ()):
            one["name"] = rename(one["name"])
    return renamed


def lesions_of(old: Mapping) -> list[str]:
    """What the run of a card or a summary outlines."""
    lesion = old["lesion"]
    return [] if lesion is None else [lesion] if isinstance(lesion, str) else list(lesion)


def thresholds_of(old: Mapping) -> dict:
    """A segmenter's thresholds, by lesion."""
    given = old["threshold"]
    return dict(given) if isinstance(given, dict) else dict.fromkeys(lesions_of(old), given)


def parents_of(old: Mapping, pseudo_labels: bool) -> tuple[Parent, ...]:
    """The runs that a run was built on, one record for each part that they played."""
    parents = []
    for one in old["parents"]:
        judged = one["metrics"].get("validation", {}) if one["kind"] == "classifier" else {}
        parent = Parent(
            role="stage1" if one["kind"] == "classifier" else "start",
            name=one["name"],
            run_id=run_id(one["name"]),
            kind=one["kind"],
            model=one["model"],
            data=one["data"]["name"],
            seconds=one["training"]["seconds"],
            encoder=one["training"]["encoder"],
            training_eyes=tuple(one["data"]["training_eyes"]),
            auc=judged.get("auc"),
            auc_interval=tuple(judged["auc_interval"]) if judged.get("auc_interval") else None,
            seed=one["training"]["seed"],
        )
        parents.append(parent)
        if pseudo_labels and parent.role == "start":
            parents.append(replace(parent, role="pseudo_labels"))
    return tuple(parents)


def data_of(data: Mapping, rename: Rename) -> DataFacts:
    """Where a run's photographs are from."""

    def pairs(name: str) -> tuple[tuple[str, str, float], ...]:
        return tuple((rename(first), rename(second), score) for first, second, score in data.get(name, ()))

    eyes = tuple(data["training_eyes"])
    return DataFacts(data["name"], data["photos"], eyes, pairs("same_eyes"), pairs("leaks_allowed"))


def converted(
    old: Mapping,
    table: Path | None = None,
    backend: str | None = None,
    precision: str | None = None,
    pseudo_labels: bool = False,
) -> Card:
    """The card of version 2 that says what a card of version 1 says."""
    rename = renaming(table, {name for names in old["split"].values() for name in names})
    same = ("name", "created", "status", "encoder", "tile", "overlap", "versions", "hardware", "command", "licence")
    shared = {name: old[name] for name in same} | dict(
        run_id=run_id(old["name"]),
        width=float(old["width"]),
        preprocessing=Preprocessing(**old["preprocessing"]),
        split=SplitNames(**{part: tuple(map(rename, names)) for part, names in old["split"].items()}),
        data=data_of(old["data"], rename),
        training=training_of(old, backend, precision),
        parents=parents_of(old, pseudo_labels),
        limits=tuple(old["limits"]),
        files=old["files"],
        export=old.get("export"),
    )
    if old["kind"] == "classifier":
        return ClassifierCard(
            **shared, head=Head(**old["head"]), threshold=old["threshold"], metrics=dict(old["metrics"])
        )
    return SegmenterCard(
        **shared,
        lesions=tuple(lesions_of(old)),
        transfer=old["transfer"],
        flips=FLIPS[old.get("flips")],
        thresholds=thresholds_of(old),
        metrics=with_new_names(by_lesion(lesions_of(old), old["metrics"]), rename),
    )


def converted_summary(old: Mapping) -> dict:
    """An entry of results/demo.json or results/idrid.json, as `collect` writes it for a card of version 2."""
    new = {name: value for name, value in old.items() if name not in ("lesion", "threshold", "transfer", "training")}
    training = training_of(old)
    new |= dict(run_id=run_id(old["name"]), training=vars(training))
    new["parents"] = [
        dict(role="stage1" if one["kind"] == "classifier" else "start", run_id=run_id(one["name"]), **one)
        for one in old["parents"]
    ]
    if old["kind"] == "classifier":
        return new | dict(threshold=old["threshold"])
    return new | dict(
        lesions=lesions_of(old),
        transfer=old["transfer"],
        thresholds=thresholds_of(old),
        metrics=by_lesion(lesions_of(old), old["metrics"]),
    )


def main() -> None:
    """Convert what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, metavar="FOLDER|RESULTS.JSON")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--backend")
    parser.add_argument("--precision")
    parser.add_argument("--pseudo-labels", action="store_true")
    given = parser.parse_args()
    for path in given.paths:
        file = path / "card.json" if path.is_dir() else path
        old = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(old, list):
            new = [one if "run_id" in one else converted_summary(one) for one in old]
            file.write_text(json.dumps(new, indent=1) + "\n", encoding="utf-8")
        elif old["schema_version"] == 1:
            write_card(path, converted(old, given.table, given.backend, given.precision, given.pseudo_labels))
            read_card(path, finished=False)
        print(path)


if __name__ == "__main__":
    main()
