"""IDRiD's outlined photographs at a quarter of their size, so that many trainings can be judged in little time.

    python tools/figures/quarter.py ../shared/data/IDRiD IDRiD-quarter

Photographs become means over 4 x 4 pixels (the decoder's own means over 4 x 4, then JPEG at quality 92); a pixel of a
mask is set where at least half of its 16 are. AUPR on them is not to be compared with AUPR at full size.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

TIMES = 4


def smaller_photo(source: Path, target: Path) -> None:
    """A JPEG at a quarter of its size."""
    with Image.open(source) as photo:
        size = tuple(side // TIMES for side in photo.size)
        photo.draft("RGB", size)
        photo.convert("RGB").resize(size, Image.Resampling.BOX).save(target, quality=92)


def smaller_mask(source: Path, target: Path) -> None:
    """A mask at a quarter of its size."""
    with Image.open(source) as mask:
        pixels = np.array(mask) > 0
    height, width = (side // TIMES for side in pixels.shape)
    parts = pixels[: height * TIMES, : width * TIMES].reshape(height, TIMES, width, TIMES)
    Image.fromarray((parts.mean((1, 3)) >= 0.5).astype(np.uint8) * 255).save(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    given = parser.parse_args()
    for path in sorted(path for path in given.source.rglob("*") if path.is_file()):
        place = given.target / path.relative_to(given.source)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in (".jpg", ".jpeg"):
            smaller_photo(path, place)
        elif path.suffix.lower() == ".tif":
            smaller_mask(path, place)
        else:
            place.write_bytes(path.read_bytes())


if __name__ == "__main__":
    main()
