"""Damaged files that steer by what the library does with them: fuzzing guided by coverage, with atheris.

    pip install atheris
    python tools/build/fuzz_guided.py dicom --seconds 60

`fuzz.py` damages sound files by chance. Here libFuzzer keeps every file that reached a new place in the library and
goes on from it, so that it learns what a reader looks for. That is for the kinds whose readers are Python; what counts
as a finding is the same, and the file that did it is left in the folder where the command was given.
"""

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

GUIDED = ("dicom", "csv", "xls", "coco", "card", "run", "onnx", "weights", "keras")
READERS = ("cards", "coco_data", "datasets", "dicom", "evaluation", "images", "inference", "leakage", "masks")
READERS += ("published", "readers", "strangers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=GUIDED)
    parser.add_argument("--seconds", type=int, default=60)
    given = parser.parse_args()
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed: pip install atheris, or go without (python tools/build/fuzz.py)")
    with atheris.instrument_imports(include=["retinal_tl"]):
        for name in READERS:
            importlib.import_module(f"retinal_tl.{name}")
    import fuzz

    sample = fuzz.sound(given.kind)[0]
    target = (fuzz.KINDS[given.kind].damaged or tuple(sample))[0]
    with tempfile.TemporaryDirectory() as folder:
        place, corpus = Path(folder) / "place", Path(folder) / "corpus"
        for one in (place, corpus):
            one.mkdir()
        for number, sound in enumerate(fuzz.sound(given.kind)):
            (corpus / str(number)).write_bytes(sound.get(target) or next(iter(sound.values())))
        kept = Path.cwd()
        fuzz.furnish(place)
        watch = fuzz.Watch(place)

        def look(data: bytes) -> None:
            result, said = fuzz.run_case(given.kind, sample | {target: data}, place, watch)
            if result == "finding":
                raise AssertionError(said)

        limits = [
            f"-max_total_time={given.seconds}",
            f"-timeout={fuzz.SECONDS}",
            "-rss_limit_mb=4096",
            f"-artifact_prefix={kept}/",
        ]
        atheris.Setup([sys.argv[0], str(corpus), *limits], look)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
