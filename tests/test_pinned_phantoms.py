"""A seed draws the eye that it has always drawn. Figures and tests everywhere in the book rest on that.

The digests in `pinned_phantoms.json` were taken before the drawing was split into three notebooks. Exponentials and
filters round differently on other processors and in other versions of NumPy and OpenCV. So digests are compared where
such sums come out as on the machine that took them, and elsewhere only what hardly depends on rounding: which lesions
an eye has, how large they are, and its color.

To change the drawing on purpose, raise `synthetic.VERSION` and run `python tests/test_pinned_phantoms.py`.
"""

import hashlib
import json
import tempfile
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from retinal_tl.core import LESIONS
from retinal_tl.synthetic import VERSION, phantom, write_synthetic

PINS = Path(__file__).with_name("pinned_phantoms.json")
CASES = {
    **{f"seed {seed}": dict(seed=seed, size=256) for seed in range(8)},
    "small": dict(seed=11, size=128),
    "large": dict(seed=3, size=512),
    "all lesions": dict(seed=9, size=200, lesions=LESIONS, style="brown"),
    "healthy": dict(seed=9, size=256, lesions=(), style="pink"),
    "soft exudates": dict(seed=17, size=256, lesions=("soft_exudates",), style="olive"),
    "odd size": dict(seed=4, size=333, lesions=("microaneurysms",), style="red"),
}
FOLDER = dict(count=4, size=128, seed=3)


def digest(*arrays):
    """16 hexadecimal digits for the types, shapes and bits of some arrays."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


@cache
def arithmetic():
    """What this machine makes of the sums that a phantom is made of."""
    plane = np.random.default_rng(0).random((96, 96), dtype=np.float32)
    photo = np.repeat((plane * 255).astype(np.uint8)[..., None], 3, 2)
    bent = [np.exp(plane), np.tanh(plane), np.hypot(plane, plane.T), np.sin(plane.astype(float)), plane.mean(1)]
    resized = [cv2.resize(plane, (250, 250), interpolation=way) for way in (cv2.INTER_CUBIC, cv2.INTER_AREA)]
    blurred = [cv2.GaussianBlur(plane, (0, 0), sigma) for sigma in (0.4, 0.8, 3, 8)]
    jpeg = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    png = cv2.imencode(".png", photo)[1]
    return digest(*bent, *resized, *blurred, jpeg, cv2.imdecode(jpeg, cv2.IMREAD_COLOR), png)


def look(case):
    """What is pinned of one phantom: its bits, and what does not hang on rounding."""
    eye = phantom(**case)
    masks = eye.masks | eye.look_alikes
    return dict(
        bits=digest(eye.photo, *masks.values()),
        style=eye.style,
        label=eye.label,
        pixels={kind: int(mask.sum()) for kind, mask in masks.items()},
        color=eye.photo.mean((0, 1)).round(2).tolist(),
    )


def files(folder):
    """The digest of each file of a folder."""
    return {
        path.relative_to(folder).as_posix(): digest(np.frombuffer(path.read_bytes(), np.uint8))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("name", CASES)
def test_a_seed_draws_the_eye_that_it_always_drew(name):
    pins = json.loads(PINS.read_text())
    found, pinned = look(CASES[name]), pins["phantoms"][name]
    if arithmetic() == pins["arithmetic"]:
        assert found == pinned
    assert (found["style"], found["label"], list(found["pixels"])) == (
        pinned["style"],
        pinned["label"],
        list(pinned["pixels"]),
    )
    assert found["color"] == pytest.approx(pinned["color"], abs=0.3)
    for kind, pixels in pinned["pixels"].items():
        assert found["pixels"][kind] == pytest.approx(pixels, rel=0.03, abs=4), kind


def test_a_folder_holds_the_files_that_it_always_held(tmp_path):
    pins = json.loads(PINS.read_text())
    found, pinned = files(write_synthetic(tmp_path / "eyes", **FOLDER)), pins["folder"]
    if arithmetic() == pins["arithmetic"]:
        assert found == pinned
    assert list(found) == list(pinned) and pins["version"] == VERSION
    for name in ("labels.csv", "settings.json"):
        assert found[name] == pinned[name], name


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        folder = files(write_synthetic(Path(place) / "eyes", **FOLDER))
    phantoms = {name: look(case) for name, case in CASES.items()}
    pins = dict(version=VERSION, arithmetic=arithmetic(), folder=folder, phantoms=phantoms)
    PINS.write_text(json.dumps(pins, indent=1) + "\n")
