"""Which good photographs get a warning? Each costs trust, so few may.

    python tools/figures/warned.py DATA --output results/warned.csv

DATA holds `IDRiD`, `DR-screening` and `DIARETDB0`. A row is written for each photograph as it is done, with what
`segment` and `classify` would say of it, and a second start does what is missing. Then the shares are printed, with
intervals of 95 % (Wilson), and the sentences. Nothing is chosen on DIARETDB0: it is another camera, and only counted.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

from scipy.stats import binomtest

from retinal_tl.core import RetinalError
from retinal_tl.images import list_photos, open_photo
from retinal_tl.quality import photo_warnings

FOLDERS = {
    "IDRiD": "A. Segmentation/1. Original Images/a. Training Set",
    "DR-screening": "images",
    "DIARETDB0": "images",
}
COLUMNS = ("set", "image", "warnings")


def say(path: Path) -> str:
    """What a user would be told of a photograph; empty: nothing."""
    try:
        photograph = open_photo(path)
        return " ".join((*photograph.warnings, *photo_warnings(photograph.pixels)))
    except RetinalError as error:
        return f"failed: {str(error).replace(str(path), path.name)}"


def measure(data: Path, output: Path) -> None:
    """Write a row for each photograph that has none yet."""
    done = {(row["set"], row["image"]) for row in read_rows(output)} if output.exists() else set()
    with open(output, "a", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not file.tell():
            table.writeheader()
        for name, path in photographs(data):
            if (name, path.stem) not in done:
                table.writerow(dict(set=name, image=path.stem, warnings=say(path)))
                file.flush()


def photographs(data: Path) -> Iterator[tuple[str, Path]]:
    """All photographs, with the name of their set."""
    for name, folder in FOLDERS.items():
        for path in list_photos(data / name / folder):
            yield name, path


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def tell(rows: list[dict[str, str]]) -> None:
    """Print how many photographs of each set get a warning, and which."""
    for name in FOLDERS:
        of_set = [row for row in rows if row["set"] == name]
        warned = [row for row in of_set if row["warnings"]]
        if of_set:
            low, high = binomtest(len(warned), len(of_set)).proportion_ci(method="wilson")
            share = f"{100 * len(warned) / len(of_set):.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
            print(f"{name}: {len(warned)} of {len(of_set)} get a warning, {share}")
        for row in warned:
            print(f"  {row['image']}: {row['warnings']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with IDRiD, DR-screening and DIARETDB0")
    parser.add_argument("--output", type=Path, required=True, help="CSV, a row for each photograph; grows")
    arguments = parser.parse_args()
    measure(arguments.data, arguments.output)
    tell(read_rows(arguments.output))


if __name__ == "__main__":
    main()
