"""How much is measured, on which networks and on which photographs."""

import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
from measure import REPOSITORY

sys.path.insert(0, str(REPOSITORY))
sys.path.insert(0, str(REPOSITORY / "tests"))

from retinal_tl.core import LESIONS, run_folder

# The package's two networks, each by itself: what `builtin` asks together takes the time of both.
NETWORKS = {"slim VGG-16": run_folder("builtin") / "vgg16", "builtin-fast": run_folder("builtin-fast")}
COMMAND = ["-c", "import sys; from retinal_tl.command import main; sys.exit(main())"]  # as installed
MIRRORS = {"none": [(1, 1)], "half_turn": [(1, 1), (-1, -1)]}


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    folder: Path  # for everything that is written
    quick: bool  # a minute in place of twenty

    @property
    def rounds(self) -> int:
        """How often each of two takes its turn."""
        return 3 if self.quick else 7

    @property
    def peer_rounds(self) -> int:
        """How often, where a turn takes many seconds."""
        return 2 if self.quick else 3


def some(plan: Plan) -> list[str]:
    """The networks that are looked at for long: the smaller one alone, where it is to be quick."""
    return ["builtin-fast"] if plan.quick else list(NETWORKS)


def photograph(folder: Path, megapixels: float) -> Path:
    """A drawn eye in a landscape of 3 to 2, as cameras take them, in JPEG."""
    from retinal_tl.synthetic import phantom

    path = folder / f"eye_{megapixels:g}.jpg"
    if not path.exists():
        height = round((megapixels * 1e6 / 1.5) ** 0.5)
        eye = phantom(3, min(height, 1424), LESIONS).photo  # drawn at half of the usual size, and enlarged: sooner
        eye = cv2.resize(eye, (height, height), interpolation=cv2.INTER_CUBIC)
        margin = round(height / 4)
        photo = cv2.copyMakeBorder(eye, 0, 0, margin, margin, cv2.BORDER_CONSTANT)
        cv2.imwrite(str(path), photo[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    return path
