"""A photograph by what else one would take: another U-Net, the paper's patches in Keras, our own first release."""

import io
import shutil
import statistics
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import peers
from measure import REPOSITORY, Row, alternate, child
from plan import COMMAND, MIRRORS, NETWORKS, Plan, photograph

from retinal_tl.core import run_folder
from retinal_tl.inference import at_quality, crop_maps, load_run
from retinal_tl.preprocess import prepare

FIRST_RELEASE = "c28c14b"
PAPER_PATCH = 160  # side of the paper's patches that the preset `paper` takes, pixels


def unet(plan: Plan) -> list[Row]:
    """The maps of a crop: ours beside a U-Net of segmentation_models_pytorch with the same encoder."""
    import segmentation_models_pytorch
    import torch

    run = at_quality(load_run(NETWORKS["builtin-fast"], "segmenter"), "fast")
    card, image = run.card, prepare(cv2.imread(str(photograph(plan.folder, 12)))[..., ::-1], run.card.preprocessing)
    theirs = segmentation_models_pytorch.Unet(
        "timm-tf_efficientnet_lite2", encoder_weights=None, classes=len(run.lesions)
    ).eval()
    theirs = theirs.to(memory_format=torch.channels_last)
    predict = lambda tiles: torch.sigmoid(theirs(tiles.contiguous(memory_format=torch.channels_last)))
    maps = lambda: peers.monai_maps(image.image, predict, card.tile, card.overlap, MIRRORS["none"])
    found, shape = alternate(lambda: crop_maps(image, run.predict, card), maps, plan.peer_rounds), maps().shape
    assert shape == crop_maps(image, run.predict, card).shape, f"maps of another shape: {shape}"
    weights = sum(each.numel() for each in theirs.parameters()) / 1e6
    return [
        Row(
            "other libraries",
            "builtin-fast: maps of a crop, one look",
            **found,
            against="segmentation_models_pytorch's U-Net with its EfficientNet-lite2, MONAI's window",
            checked=f"maps of the same shape; its weights ({weights:.1f} millions) are random: only time is compared",
        )
    ]


def paper_patches(plan: Plan) -> list[Row]:
    """The maps of a crop: ours beside Keras' `predict` of the network as it was trained, in the paper's patches."""
    from retinal_tl.model_files import load_weights

    run = at_quality(load_run(NETWORKS["slim VGG-16"], "segmenter"), "fast")
    model, card = load_weights(run_folder("builtin", "start")), run.card
    image = prepare(cv2.imread(str(photograph(plan.folder, 12)))[..., ::-1], card.preprocessing)
    tile = np.ascontiguousarray(image.image[None, 300:556, 300:556]).astype(np.float32)
    apart = float(np.abs(model.predict(tile, verbose=0) - run.predict(tile)).mean())
    assert apart < 0.002, f"the network in Keras differs by {apart:.1e}"  # ours makes do with fewer channels

    def theirs():
        patches = peers.side_by_side(image.image, PAPER_PATCH)
        return model.predict(patches.astype(np.float32), batch_size=8, verbose=0)

    found = alternate(lambda: crop_maps(image, run.predict, card), theirs, plan.peer_rounds)
    return [
        Row(
            "other libraries",
            "slim VGG-16: maps of a crop, one look",
            **found,
            against=f"TensorFlow's `predict` of the whole network, patches of {PAPER_PATCH} pixels side by side",
            checked=f"{apart:.0e} apart in the mean of a tile; at the rims of patches the maps differ by their nature",
        )
    ]


def first_release(plan: Plan) -> list[Row]:
    """The whole command, four lesions, with what is built in: today's beside the first release's."""
    old = plan.folder / "first_release"
    archive = subprocess.run(
        ["git", "archive", FIRST_RELEASE, "retinal_tl"], cwd=REPOSITORY, capture_output=True, check=False
    )
    if archive.returncode:
        raise ImportError(f"the first release, {FIRST_RELEASE}, is not in this copy's history")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as packed:
        packed.extractall(old, filter="data")
    photo, rows = photograph(plan.folder, 12), []

    def segment(code: Path, output: str, *more: str) -> dict[str, float]:
        shutil.rmtree(plan.folder / output, ignore_errors=True)  # what is there already is not done again
        words = [sys.executable, *COMMAND, "segment", str(photo), "--output", str(plan.folder / output)]
        return child([*words, *more], code)

    for what, quality in {"builtin": "standard", "builtin, --quality fast": "fast"}.items():
        pairs = [
            (segment(REPOSITORY, f"now_{quality}", "--quality", quality), segment(old, "then"))
            for _ in range(plan.peer_rounds)
        ]
        found = {place: {one.stem for one in (plan.folder / place).iterdir()} for place in (f"now_{quality}", "then")}
        assert all(any("exudates" in name for name in names) for names in found.values()), f"no maps: {found}"
        ratios = [then["seconds"] / now["seconds"] for now, then in pairs]
        rows.append(
            Row(
                "first release",
                f"{what}: 12 megapixels, the whole command",
                statistics.median([now["seconds"] for now, _ in pairs]),
                statistics.median([then["seconds"] for _, then in pairs]),
                f"the first release ({FIRST_RELEASE}) with the model that was built in",
                statistics.median(ratios),
                min(ratios),
                max(ratios),
                statistics.median([then["cpu"] / now["cpu"] for now, then in pairs]),
                target=4,
                checked="both write maps and masks of four lesions; the models are each release's own",
            )
        )
    return rows
