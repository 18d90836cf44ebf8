"""The same work by other libraries, as somebody who knows them would write it."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np


def bare_opencv(path: Path, diameter: int) -> np.ndarray:
    """Read, find the field, crop, scale and CLAHE with nothing but calls of OpenCV: the least that there is to do."""
    photo = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    scale = 512 / max(photo.shape[:2])
    small = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    lit = (cv2.medianBlur(small.max(-1), 5) > 20).astype(np.uint8)
    contour = max(cv2.findContours(lit, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=cv2.contourArea)
    (x, y), radius = cv2.minEnclosingCircle(contour)
    return opencv_crop(photo, (x / scale, y / scale, radius / scale), diameter)


def opencv_crop(photo: np.ndarray, circle: tuple[float, float, float], diameter: int) -> np.ndarray:
    """The square around a circle, scaled, each channel evened out."""
    x, y, radius = circle
    side, (height, width) = round(2 * radius), photo.shape[:2]
    left, top = round(x - side / 2 + 0.5), round(y - side / 2 + 0.5)
    inner = photo[max(top, 0) : top + side, max(left, 0) : left + side]
    square = cv2.copyMakeBorder(
        inner,
        max(-top, 0),
        max(top + side - height, 0),
        max(-left, 0),
        max(left + side - width, 0),
        cv2.BORDER_CONSTANT,
    )
    scaled = cv2.resize(square, (diameter, diameter), interpolation=cv2.INTER_AREA)
    equalize = cv2.createCLAHE(1.5, (8, 8)).apply
    return cv2.merge([equalize(channel) for channel in cv2.split(scaled)])


def scikit_image(path: Path, diameter: int, circle: tuple | None = None) -> tuple[np.ndarray, np.ndarray, float]:
    """The same steps in scikit-image: the scaled crop, that evened out, and the radius of the field that it found.

    With another's circle, crops can be compared pixel by pixel."""
    from skimage import exposure, io, measure, transform

    photo = io.imread(path)
    small = transform.rescale(photo.max(-1), 1 / 8, anti_aliasing=True)
    regions = measure.regionprops(measure.label(small > 20 / 255))
    field = max(regions, key=lambda region: region.area)
    y, x = (8 * value for value in field.centroid)
    radius = 8 * field.axis_major_length / 2
    x, y, wanted = circle or (x, y, radius)
    side = round(2 * wanted)
    left, top = round(x - side / 2 + 0.5), round(y - side / 2 + 0.5)
    before = [
        (max(-top, 0), max(top + side - photo.shape[0], 0)),
        (max(-left, 0), max(left + side - photo.shape[1], 0)),
    ]
    padded = np.pad(photo, [*before, (0, 0)])
    top, left = top + before[0][0], left + before[1][0]
    scaled = transform.resize_local_mean(padded[top : top + side, left : left + side], (diameter, diameter))
    scaled = scaled / 255 if scaled.max() > 1 else scaled
    clip = 1.5 / 256  # OpenCV counts it in mean bins
    evened = [exposure.equalize_adapthist(scaled[..., i], diameter // 8, clip) for i in range(3)]
    return (scaled * 255).astype(np.uint8), (np.dstack(evened) * 255).astype(np.uint8), radius


def torch_network(contents: bytes) -> Callable:
    """An ONNX file of ours as a function of torch: (n, 3, h, w) to (n, maps, h, w), from its nodes one by one."""
    import onnx
    import torch
    from onnx import numpy_helper
    from torch.nn import functional

    graph = onnx.load_from_string(contents).graph
    weights = {each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Cast" and node.input[0] in weights]:
        weights[node.output[0]] = weights[node.input[0]].float()
    nodes = [node for node in graph.node if node.op_type != "Cast"]
    read = lambda node: {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    facts = [read(node) for node in nodes]

    def convolve(x, kernel, bias=None, *, about):
        stride, groups = about.get("strides", [1, 1]), about.get("group", 1)
        pads = about.get("pads")
        if about.get("auto_pad", b"NOTSET") == b"SAME_UPPER":  # what is odd goes behind
            wanted = [
                max((-(-size // step) - 1) * step + width - size, 0)
                for size, step, width in zip(x.shape[2:], stride, kernel.shape[2:])
            ]
            pads = [wanted[0] // 2, wanted[1] // 2, wanted[0] - wanted[0] // 2, wanted[1] - wanted[1] // 2]
        pads = pads or [0, 0, 0, 0]
        if pads[:2] == pads[2:]:
            return functional.conv2d(x, kernel, bias, stride, pads[:2], groups=groups)
        x = functional.pad(x, (pads[1], pads[3], pads[0], pads[2]))
        return functional.conv2d(x, kernel, bias, stride, groups=groups)

    ways = {
        "Conv": convolve,
        "Relu": lambda x, about: functional.relu(x),
        "Clip": lambda x, low, high, about: torch.clamp(x, float(low), float(high)),
        "Add": lambda a, b, about: a + b,
        "Mul": lambda a, b, about: a * b,
        "Sigmoid": lambda x, about: torch.sigmoid(x),
        "Concat": lambda *parts, about: torch.cat(parts, about["axis"]),
        "MaxPool": lambda x, about: functional.max_pool2d(x, about["kernel_shape"], about["strides"]),
        "Resize": lambda x, scales, about: functional.interpolate(x, scale_factor=2, mode="nearest"),
        "Transpose": lambda x, about: x.permute(*about["perm"]),
        "Reshape": lambda x, shape, about: x.reshape([int(v) or x.shape[i] for i, v in enumerate(shape)]),
    }

    def network(photo):
        values = dict(weights, photo=photo.permute(0, 2, 3, 1))
        with torch.inference_mode():
            for node, about in zip(nodes, facts):
                given = [values[name] for name in node.input if name]
                values[node.output[0]] = ways[node.op_type](*given, about=about)
        return values[graph.output[0].name].permute(0, 3, 1, 2)

    return network


def side_by_side(image: np.ndarray, side: int) -> np.ndarray:
    """A square picture in patches (n, side, side, channels) that do not overlap, black beyond its edge."""
    more = -len(image) % side
    padded = np.pad(image, [(0, more), (0, more), (0, 0)])
    count = len(padded) // side
    rows = padded.reshape(count, side, count, side, -1)
    return rows.swapaxes(1, 2).reshape(count**2, side, side, -1)


def monai_maps(image: np.ndarray, network: Callable, tile: int, overlap: float, mirrors: list) -> np.ndarray:
    """The maps of a prepared photograph by MONAI's `sliding_window_inference`, the mean over its mirror images."""
    import torch
    from monai.inferers import sliding_window_inference

    total = 0
    for rows, columns in mirrors:
        turned = np.ascontiguousarray(image[::rows, ::columns]).transpose(2, 0, 1)[None].astype(np.float32)
        with torch.inference_mode():
            maps = sliding_window_inference(
                torch.from_numpy(turned), (tile, tile), 1, network, overlap=overlap, mode="gaussian"
            )
        total = total + maps[0].numpy().transpose(1, 2, 0)[::rows, ::columns]
    return total / len(mirrors)
