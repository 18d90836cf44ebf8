"""Draw nbs/images/overview.png, the method in one picture, on a synthetic eye; and the site's favicon beside it.

python tools/build/overview.py              with the exact mask of the synthetic eye as the last picture
python tools/build/overview.py runs/RUN     with what that run of stage 2 finds
"""

import sys
from pathlib import Path

import cv2
import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, Rectangle
from PIL import Image

from retinal_tl.synthetic import phantom

TARGET = Path(__file__).resolve().parent.parent.parent / "nbs" / "images" / "overview.png"
ENCODER, DECODER, HEAD, INK = "#3c6e91", "#c98b3b", "#7d8f69", "#303a42"
LESION, SICK_SEED, HEALTHY_SEED = "exudates", 5, 7


def draw_picture(ax, image, left, bottom, side, title, **settings):
    """A square picture with a line of text under it."""
    ax.imshow(
        image,
        extent=(left, left + side, bottom, bottom + side),
        aspect="auto",
        zorder=2,
        interpolation="antialiased",
        **settings,
    )
    ax.text(left + side / 2, bottom - 0.14, title, ha="center", va="top", fontsize=9.5, color=INK)


def draw_blocks(ax, heights, left, middle, color, title):
    """A network as a row of bars, as high as its feature maps are wide; gives the x after the last."""
    for i, height in enumerate(heights):
        ax.add_patch(
            Rectangle(
                (left + 0.26 * i, middle - height / 2),
                0.18,
                height,
                facecolor=color,
                edgecolor="white",
                linewidth=0.8,
                zorder=2,
            )
        )
    ax.text(
        left + 0.13 * len(heights) - 0.04,
        middle - max(heights) / 2 - 0.14,
        title,
        ha="center",
        va="top",
        fontsize=9.5,
        color=INK,
    )
    return left + 0.26 * len(heights) - 0.08


def draw_arrow(ax, start, end):
    """An arrow between two points."""
    ax.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=13, color=INK, linewidth=1.3, shrinkA=2, shrinkB=2)
    )


def outlined(photo, mask):
    """The photo with a line around the mask."""
    rim = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool) & ~mask
    image = photo.copy()
    image[rim] = (60, 255, 90)
    return image


def find(photo, run):
    """Probability of the lesion, and from where on it counts, as a run gives them."""
    from retinal_tl.inference import load_run, segment

    return segment(photo, run)[LESION], load_run(run).card["threshold"]


def main():
    sick = phantom(SICK_SEED, size=768, lesions=(LESION, "hemorrhages"))
    healthy = phantom(HEALTHY_SEED, size=768, lesions=())
    run = sys.argv[1] if len(sys.argv) > 1 else None
    probability, threshold = find(sick.photo, run) if run else (sick.masks[LESION].astype(float), 0.5)

    figure, ax = plt.subplots(figsize=(11, 4.5), dpi=125)
    ax.set(xlim=(0, 11), ylim=(0, 4.5))
    ax.axis("off")
    ax.text(
        0.1,
        4.4,
        "Stage 1: lesion or no lesion?   Cheap labels, thousands of photographs",
        fontsize=11,
        weight="bold",
        va="top",
        color=INK,
    )
    draw_picture(ax, healthy.photo, 0.1, 2.75, 1.2, "no lesion")
    draw_picture(ax, sick.photo, 1.4, 2.75, 1.2, "lesion")
    end = draw_blocks(ax, (1.2, 0.95, 0.7, 0.5, 0.35), 3.3, 3.35, ENCODER, "encoder")
    draw_arrow(ax, (2.65, 3.35), (3.25, 3.35))
    head = draw_blocks(ax, (0.35,), 5.1, 3.35, HEAD, "head")
    draw_arrow(ax, (end, 3.35), (5.05, 3.35))
    draw_arrow(ax, (head, 3.35), (5.95, 3.35))
    ax.text(6.0, 3.35, "probability\nof a lesion", fontsize=9.5, va="center", color=INK)

    ax.text(0.1, 2.12, "Stage 2: where is it?", fontsize=11, weight="bold", va="top", color=INK)
    ax.text(
        0.1, 1.62, "Masks drawn\nby hand,\ndozens of\nphotographs", fontsize=10, va="top", color=INK, linespacing=1.35
    )
    draw_picture(ax, sick.photo, 1.4, 0.4, 1.2, "photograph")
    end = draw_blocks(ax, (1.2, 0.95, 0.7, 0.5, 0.35), 3.3, 1.0, ENCODER, "the same encoder")
    draw_arrow(ax, (2.65, 1.0), (3.25, 1.0))
    draw_arrow(ax, (end, 1.0), (5.05, 1.0))
    end = draw_blocks(ax, (0.35, 0.5, 0.7, 0.95, 1.2), 5.1, 1.0, DECODER, "decoder")
    draw_arrow(ax, (end, 1.0), (7.15, 1.0))
    draw_picture(
        ax, probability, 7.2, 0.4, 1.2, "probability map" if run else "the mask it learns", cmap="magma", vmin=0, vmax=1
    )
    draw_arrow(ax, (8.45, 1.0), (8.75, 1.0))
    draw_picture(ax, outlined(sick.photo, probability >= threshold), 8.8, 0.05, 1.95, "")
    ax.text(9.78, 2.05, "exudates, outlined", ha="center", va="bottom", fontsize=9.5, color=INK)
    draw_arrow(ax, (3.91, 2.42), (3.91, 1.75))
    ax.text(4.02, 2.1, "transfer: weights copied, then frozen", fontsize=9.5, style="italic", va="center", color=INK)
    for level, height in enumerate((0.57, 0.45, 0.32)):  # skips, from a block to the one of its size
        ax.plot(
            [3.39 + 0.26 * level, 3.39 + 0.26 * level, 6.23 - 0.26 * level, 6.23 - 0.26 * level],
            [1.0 + height, 1.1 + height, 1.1 + height, 1.0 + height],
            color="#9aa7b0",
            linewidth=1,
            zorder=1,
        )

    TARGET.parent.mkdir(exist_ok=True)
    figure.savefig(TARGET, bbox_inches="tight", pad_inches=0.05, facecolor="white")
    # few colors are enough and take a third of the bytes
    Image.open(TARGET).convert("RGB").quantize(200, dither=Image.Dither.NONE).save(TARGET, optimize=True)
    Image.fromarray(sick.photo).resize((64, 64), Image.Resampling.LANCZOS).save(
        TARGET.with_name("favicon.png"), optimize=True
    )


if __name__ == "__main__":
    main()
