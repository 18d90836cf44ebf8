"""What is measured, part by part. Each part gives its rows, and raises ImportError where a peer is not installed."""

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import growing
import libraries
import numpy as np
import peers
import training
from measure import Row, alternate, timed
from plan import MIRRORS, NETWORKS, Plan, photograph, some

from retinal_tl.inference import crop_maps, load_run, segment_prepared
from retinal_tl.preprocess import Preprocessing, find_field_of_view, prepare
from retinal_tl.strangers import Fitted, open_network


def preprocessing(plan: Plan) -> list[Row]:
    """From a file to what a network is given, with CLAHE, which the paper wants."""
    from retinal_tl.images import open_photo

    path, settings = photograph(plan.folder, 12), Preprocessing(diameter=1440, clahe="rgb")
    ours = lambda: prepare(open_photo(path).pixels, settings)
    mine, field = ours(), find_field_of_view(open_photo(path).pixels)
    circle = field.center_x, field.center_y, field.radius
    bare = peers.opencv_crop(open_photo(path).pixels, circle, 1440)
    assert np.array_equal(bare[mine.inside], mine.image[mine.inside]), "bare OpenCV gives other pixels"
    rows = [
        Row(
            "preprocessing",
            "12 megapixels, bare OpenCV over ours",
            **alternate(ours, lambda: peers.bare_opencv(path, 1440), plan.rounds),
            against="calls of OpenCV without a check",
            checked="inside the field the same bits from the same circle",
        )
    ]
    rows[0] = replace(
        rows[0], what="12 megapixels, ours over bare OpenCV", **_turned(rows[0]), target=1.3, at_least=False
    )
    crop, evened, radius = peers.scikit_image(path, 1440, circle)
    assert abs(radius / field.radius - 1) < 0.02, f"scikit-image finds another field: {radius} and {field.radius}"
    plain = prepare(open_photo(path).pixels, replace(settings, clahe="none")).image
    apart = np.abs(crop.astype(int) - plain)[mine.inside].mean()
    alike = np.corrcoef(evened[mine.inside].ravel(), mine.image[mine.inside].ravel())[0, 1]
    assert apart < 1 and alike > 0.7, f"scikit-image: crops {apart:.1f} gray levels apart, CLAHE alike by {alike:.2f}"
    found = alternate(ours, lambda: peers.scikit_image(path, 1440), max(2, plan.rounds // 2))
    said = f"crops {apart:.1f} gray levels apart; each has a CLAHE of its own kind, correlation {alike:.2f}"
    rows.append(Row("preprocessing", "12 megapixels", **found, against="scikit-image", target=5, checked=said))
    return rows


def _turned(row: Row) -> dict:
    """The ratios the other way round."""
    return dict(ratio=1 / row.ratio, low=1 / row.high, high=1 / row.low, cpu_ratio=1 / row.cpu_ratio)


@contextmanager
def watched(run) -> Iterator[tuple]:
    """A run whose networks are timed: the run, and a list of (seconds, processor seconds) of each call."""
    calls: list = []

    def timing(one):
        if one.members:
            return replace(one, members=tuple(timing(member) for member in one.members))
        session = one.session

        class Watched:
            get_inputs = staticmethod(session.get_inputs)

            @staticmethod
            def run(*given):
                kept = []
                calls.append(timed(lambda: kept.append(session.run(*given))))
                return kept[0]

        return replace(one, session=Watched)

    yield timing(run), calls


def network(plan: Plan) -> list[Row]:
    """A tile's time over that of its convolutions; a photograph's from file to files over that of its network."""
    from retinal_tl.one_photo import segment_file

    rows, path = [], photograph(plan.folder, 12)
    rows.append(_known_shape("builtin-fast", plan))
    for model in NETWORKS:
        shares = [_over_convolutions(model, plan) for _ in range(1 if plan.quick else 3)]
        ours, convolutions = (statistics.median(values) for values in zip(*shares))
        ratios = [one / other for one, other in shares]
        rows.append(
            Row(
                "network",
                f"{model}: a tile over its convolutions",
                ours,
                convolutions,
                "ONNX Runtime's own profile",
                statistics.median(ratios),
                min(ratios),
                max(ratios),
                target=1.15,
                at_least=False,
                checked="one run counted once",
            )
        )
    for model in some(plan) if plan.quick else [*NETWORKS, "builtin"]:  # what the command asks by itself comes last
        with watched(load_run(NETWORKS.get(model, model), "segmenter")) as (run, calls):
            whole = []
            for _ in range(2 if plan.quick else 4):
                calls.clear()
                clock, cpu = timed(lambda: segment_file(path, [run], plan.folder / "found"))
                whole.append((clock, sum(one for one, _ in calls), cpu, sum(one for _, one in calls)))
        ratios = [clock / within for clock, within, _, _ in whole[1:]]
        rows.append(
            Row(
                "network",
                f"{model}: file to files over network",
                statistics.median(clock for clock, *_ in whole[1:]),
                statistics.median(within for _, within, *_ in whole[1:]),
                "the time within `session.run`",
                statistics.median(ratios),
                min(ratios),
                max(ratios),
                statistics.median(cpu / within for _, _, cpu, within in whole[1:]),
                target=1.25,
                at_least=False,
                checked="measured in the same runs",
            )
        )
    return rows


def _known_shape(model: str, plan: Plan) -> Row:
    """A tile through the network that was told its shape, beside the network that takes any."""
    run = load_run(NETWORKS[model], "segmenter")
    given = {run.session.get_inputs()[0].name: _tile(run.card.tile)}
    general = open_network((run.folder / "model.onnx").read_bytes(), model)
    ours, other = (lambda one=one: one.run(None, given)[0] for one in (run.session, general))
    apart = float(np.abs(ours() - other()).max())
    assert apart < 1e-5, f"told its shape, the network differs by {apart:.1e}"
    found = alternate(ours, other, 2 if plan.quick else 6)
    assert apart > 0, "the network was not opened for this shape"
    against = "the same network, which takes pictures of any shape"
    return Row("network", f"{model}: a tile, its shape known", **found, against=against, checked=f"{apart:.0e} apart")


def _tile(side: int) -> np.ndarray:
    """A tile of noise, as a network is given one."""
    return np.random.default_rng(0).uniform(0, 255, (1, side, side, 3)).astype(np.float32)


def _over_convolutions(model: str, plan: Plan) -> tuple[float, float]:
    """Seconds of a tile and of its convolutions."""
    import onnxruntime

    run, options = load_run(NETWORKS[model], "segmenter"), onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(plan.folder / "profile")
    if isinstance(run.session, Fitted):  # as it is opened for tiles
        for name, length in zip(run.session.get_inputs()[0].shape, (1, run.card.tile, run.card.tile)):
            options.add_free_dimension_override_by_name(name, length)
    session = onnxruntime.InferenceSession(
        (run.folder / "model.onnx").read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    tile = _tile(run.card.tile)
    for _ in range(3):
        session.run(None, {session.get_inputs()[0].name: tile})
    events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [one for one in events if one.get("cat") == "Node" and one["name"].endswith("_kernel_time")]
    total = sum(one["dur"] for one in kernels)
    return total / 3e6, sum(one["dur"] for one in kernels if "Conv" in one["args"]["op_name"]) / 3e6


def peer_engines(plan: Plan) -> list[Row]:
    """A photograph's maps: ours beside MONAI's sliding window, over the same network at the same overlap."""
    import monai  # noqa: F401
    import torch  # noqa: F401

    rows = []
    for model in some(plan):
        rows += _against_monai(model, plan)
    return rows


def _against_monai(model: str, plan: Plan) -> list[Row]:
    import torch

    from retinal_tl.findings import find_lesions, masks_at, write_findings

    path, whole = photograph(plan.folder, 12), load_run(NETWORKS[model], "segmenter")
    card, rows = replace(whole.card, coarse={}), []  # MONAI's window looks at one scale
    run = replace(whole, card=card)
    converted = peers.torch_network((run.folder / "model.onnx").read_bytes())
    predict = lambda tiles: torch.from_numpy(
        run.predict(tiles.permute(0, 2, 3, 1).numpy()).transpose(0, 3, 1, 2).copy()
    )
    image = prepare(cv2.imread(str(path))[..., ::-1], card.preprocessing)
    tile = np.ascontiguousarray(image.image[None, 300:556, 300:556]).astype(np.float32)
    answer = converted(torch.from_numpy(tile).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    apart = float(np.abs(answer - run.predict(tile)).max())
    assert apart < 1e-4, f"the network in torch differs by {apart:.1e}"

    def by_monai(function):
        seen = lambda prepared: peers.monai_maps(prepared.image, function, card.tile, card.overlap, MIRRORS[card.flips])

        def work():
            _file_to_files(path, run, seen, plan.folder / "theirs")

        return work, seen

    def ours():
        found = find_lesions(path, [run])
        write_findings(plan.folder / "ours", found, masks_at(found, found.thresholds), found.thresholds)

    for name, function in (("the network in torch", converted), ("our ONNX session as predictor", predict)):
        work, seen = by_monai(function)
        maps = [seen(image), crop_maps(image, run.predict, card)]
        between = float(np.abs(maps[0] - maps[1])[image.inside].mean())
        assert between < 1e-3, f"MONAI's maps differ by {between:.1e} on average"
        found = alternate(ours, work, plan.peer_rounds)
        said = f"networks {apart:.0e} apart, blended maps {between:.0e} on average (MONAI places tiles otherwise)"
        target = 2 if "torch" in name else None
        rows.append(
            Row(
                "file to files",
                f"{model}: 12 megapixels",
                **found,
                against=f"MONAI, {name}",
                target=target,
                checked=said,
            )
        )
    return rows


def _file_to_files(path: Path, run, maps, base: Path) -> None:
    """What our command does for a photograph, with maps from elsewhere and nothing looked at beside them."""
    from retinal_tl.findings import Findings, masks_at, write_findings
    from retinal_tl.images import open_photo
    from retinal_tl.metrics import quantize

    photo = open_photo(path).pixels
    prepared = prepare(photo, run.card.preprocessing)
    crops = maps(prepared)
    inside = prepared.field.mask(prepared.shape)
    levels = {
        lesion: quantize(np.clip(prepared.field.restore(np.ascontiguousarray(crops[..., i]), prepared.shape), 0, 1))
        for i, lesion in enumerate(run.lesions)
    }
    found = Findings(path.name, photo, inside, levels, run.thresholds)
    write_findings(base, found, masks_at(found, run.thresholds), run.thresholds)


def openvino(plan: Plan) -> list[Row]:
    """The same network files in OpenVINO, in 32 bits."""
    import openvino as ov

    rows, core = [], ov.Core()
    for model in some(plan):
        run = load_run(NETWORKS[model], "segmenter")
        prepared = prepare(cv2.imread(str(photograph(plan.folder, 12)))[..., ::-1], run.card.preprocessing)
        read = core.read_model((run.folder / "model.onnx").read_bytes())
        compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        theirs = lambda tiles, compiled=compiled: compiled(tiles)[0]
        maps = [segment_prepared(prepared, predict, run.card) for predict in (run.predict, theirs)]
        apart = max(float(np.abs(maps[0][lesion] - maps[1][lesion]).max()) for lesion in run.lesions)
        assert apart < 1e-3, f"OpenVINO's maps differ by {apart:.1e}"
        found = alternate(
            lambda: crop_maps(prepared, run.predict, run.card),
            lambda: crop_maps(prepared, theirs, run.card),
            2 if plan.quick else 3,
        )
        rows.append(
            Row("engines", f"{model}: maps of a crop", **found, against="OpenVINO", checked=f"maps {apart:.0e} apart")
        )
    return rows


def evaluation(plan: Plan) -> list[Row]:
    """Average precision of a full-size map of 12 megapixels."""
    from sklearn.metrics import average_precision_score

    from retinal_tl.metrics import average_precision, pixel_histogram

    shape, rng = (2848, 4288), np.random.default_rng(0)
    mask = cv2.GaussianBlur(rng.normal(size=shape).astype(np.float32), None, 12) > 0.06
    levels = np.clip(cv2.GaussianBlur(mask.astype(np.float32), None, 6) + rng.normal(0, 0.2, shape), 0, 1)
    probability = (np.round(levels * 65535) / 65535).astype(np.float32)  # as it is stored
    ours = lambda: average_precision(pixel_histogram(probability, mask))
    theirs = lambda: average_precision_score(mask.ravel(), np.round(probability * 65535).ravel())
    apart = abs(ours() - theirs())
    assert apart < 1e-6, f"scikit-learn says otherwise by {apart:.1e}"
    found = alternate(ours, theirs, max(2, plan.rounds // 2))
    said = f"figures {apart:.0e} apart"
    return [Row("evaluation", "12 megapixels", **found, against="scikit-learn", target=20, checked=said)]


PARTS = {
    "preprocessing": preprocessing,
    "evaluation": evaluation,
    "network": network,
    "monai": peer_engines,
    "openvino": openvino,
    "unet": libraries.unet,
    "paper-patches": libraries.paper_patches,
    "first-release": libraries.first_release,
    "batch": growing.batch,
    "start-up": growing.start_up,
    "growth": growing.growth,
    "training": training.backends,
    "training-torch": training.against_torch,
}


def measure(names: list[str], quick: bool) -> Iterator[tuple[str, list[Row], str]]:
    """Each part's name, its rows, and why it was left out."""
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            begun, rows, why = time.monotonic(), [], ""
            try:
                rows = PARTS[name](Plan(Path(folder), quick))
            except ImportError as error:
                extra = dict(jax="dev", keras="train", tensorflow="train").get(str(error.name), "bench")
                why = f"{error.name} is not installed: pip install 'retinal_tl[{extra}]'" if error.name else str(error)
            print(f"{name}: {why or f'{time.monotonic() - begun:.0f} s'}", flush=True)
            yield name, rows, why
