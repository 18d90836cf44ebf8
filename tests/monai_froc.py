"""Small maps with lesions to compare with MONAI, and a script that asks MONAI about them.

MONAI wants PyTorch, so it is asked in an environment of its own:

    python -m venv /tmp/monai && /tmp/monai/bin/pip install torch==2.13.0 monai==1.6.1 scikit-image==0.26.0
    /tmp/monai/bin/python tests/monai_froc.py

Its output is kept in test_lesions.py. Nothing of retinal_tl is used here: scikit-image labels the regions.
"""

import json
import sys

import numpy as np

TOP, FLOOR, SIDE = 65535, 6554, 64
RATES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)


def photographs(seed: int, share_found: float, count: int = 8) -> list[tuple[np.ndarray, np.ndarray]]:
    """uint16 levels and bool masks of photographs with rectangles as lesions; some touch, some are missed."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        levels, mask = np.zeros((SIDE, SIDE), np.uint16), np.zeros((SIDE, SIDE), bool)
        for _ in range(rng.integers(2, 8)):
            row, column, height, width = *rng.integers(2, SIDE - 10, 2), *rng.integers(1, 7, 2)
            mask[row : row + height, column : column + width] = True
            if rng.random() < share_found:
                draw(levels, row - rng.integers(2), column - rng.integers(2), height + 1, width + 1, rng)
        for _ in range(rng.integers(7)):
            draw(levels, *rng.integers(0, SIDE - 10, 2), *rng.integers(1, 6, 2), rng)
        made.append((levels, mask))
    return made


def draw(levels: np.ndarray, row: int, column: int, height: int, width: int, rng: np.random.Generator) -> None:
    """A rectangle of one level, with a pixel in it that is higher; where rectangles meet, the higher level stays."""
    part = levels[row : row + height, column : column + width]
    part[:] = np.maximum(part, rng.integers(FLOOR, 40000))
    part[rng.integers(height), rng.integers(width)] = rng.integers(40000, TOP + 1)


def ask_monai(made: list[tuple[np.ndarray, np.ndarray]]) -> dict:
    """MONAI's figures: a candidate is a point in each lesion that it touches, or a single point if there is none."""
    from monai.metrics import compute_fp_tp_probs, compute_froc_curve_data, compute_froc_score
    from skimage.measure import label

    false_alarms, lesions, targets = [], [], 0
    for levels, mask in made:
        regions, truth = label(levels >= FLOOR, connectivity=2), label(mask, connectivity=2)
        points = []
        for region in range(1, regions.max() + 1):
            inside = regions == region
            matched = [inside & (truth == one) for one in np.unique(truth[inside]) if one] or [inside]
            points += [(levels[inside].max() / TOP, *np.argwhere(where)[0]) for where in matched]
        probs, rows, columns = (np.array(values) for values in zip(*points))
        fp, tp, number = compute_fp_tp_probs(probs.astype(np.float32), rows, columns, truth)
        false_alarms.append(fp)
        lesions.append(tp)
        targets += number
    fp, tp = np.concatenate(false_alarms), np.concatenate(lesions)
    fps, sensitivity = compute_froc_curve_data(fp, tp, targets, len(made))
    level = lambda probabilities: sorted(round(float(one) * TOP) for one in probabilities)
    whole = lambda shares, number: [round(float(one) * number) for one in shares]
    return dict(
        false_alarms=level(fp),
        lesions=level(tp),
        curve_false_alarms=whole(fps, len(made)),
        curve_found=whole(sensitivity, targets),
        score=float(compute_froc_score(fps, sensitivity, RATES)),
        sensitivities=[float(compute_froc_score(fps, sensitivity, (rate,))) for rate in RATES],
    )


if __name__ == "__main__":
    for name, seed, share in (("some missed", 1, 0.6), ("none missed", 2, 1.0)):
        json.dump({name: ask_monai(photographs(seed, share))}, sys.stdout)
        print()
