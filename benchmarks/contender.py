"""A process that builds a network and makes training steps when a line with their number comes in; see training.py.

    python benchmarks/contender.py tensorflow|jax|torch stage1|frozen|finetune FOLDER

FOLDER holds batch.npz. Each answer is a line of JSON: seconds, processor seconds, and the loss of the last step. All
begin with the same weights, drawn by name.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

BLOCKS, CHANNELS = (2, 2, 3, 3, 3), (16, 32, 64, 128, 128)  # VGG-16 at a quarter of its width
RATE = 1e-3


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The first values of a weight: the same in every framework, whose own chances differ."""
    end, fan = name.rsplit("/", 1)[-1], int(np.prod(shape[:-1]))
    if end in ("gamma", "moving_variance"):
        return np.ones(shape, np.float32)
    if end in ("beta", "moving_mean", "bias"):
        return np.full(shape, -2 if "probability" in name else 0, np.float32)
    seed = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
    return (np.random.default_rng(seed).normal(size=shape) * (2 / max(fan, 1)) ** 0.5).astype(np.float32)


def ours(kind: str, inputs: np.ndarray, targets: np.ndarray) -> Callable[[], float]:
    """A step of `retinal_tl`, as `fit` makes it."""
    from retinal_tl.classifier import build_classifier
    from retinal_tl.encoders import encoder_of
    from retinal_tl.segmenter import build_segmenter
    from retinal_tl.training import Recipe, _compile, one_operation_at_a_time

    one_operation_at_a_time()
    stage1 = kind == "stage1"
    model = build_classifier("vgg16", 0.25, dropout=0.0) if stage1 else build_segmenter("vgg16", 0.25)
    for weight in model.variables:
        if weight.dtype == "float32" and "seed" not in weight.path:
            weight.assign(drawn("/".join(weight.path.split("/")[-2:]), tuple(weight.shape)))
    if kind == "frozen":
        encoder_of(model).trainable = False
    loss = "bce" if stage1 else "bce+dice"
    _compile(model, Recipe(learning_rate=RATE, schedule="constant", loss=loss, precision="float32"))
    return lambda: float(model.train_on_batch(inputs, targets))


def theirs(kind: str, inputs: np.ndarray, targets: np.ndarray) -> Callable[[], float]:
    """A step of the same network, loss and optimizer in PyTorch."""
    import torch
    from torch import nn

    def named(layer: nn.Module, name: str) -> nn.Module:
        for own, key in (("weight", "kernel"), ("bias", "bias")):
            value = getattr(layer, own, None)
            if value is not None and isinstance(layer, (nn.Conv2d, nn.Linear)):
                shape = tuple(value.shape)
                if own == "weight":
                    turned = (*shape[2:], shape[1], shape[0])
                    start = drawn(f"{name}/{key}", turned)
                    order = (3, 2, 0, 1) if len(shape) == 4 else (1, 0)
                    value.data = torch.from_numpy(start.transpose(order).copy())
                else:
                    value.data = torch.from_numpy(drawn(f"{name}/{key}", shape))
        return layer

    def convolution(before: int, after: int, name: str, relu: bool = True) -> nn.Sequential:
        kernel = named(nn.Conv2d(before, after, 3, padding=1, bias=False), name)
        normal = nn.BatchNorm2d(after, eps=1e-3, momentum=0.1)
        return nn.Sequential(kernel, normal, *([nn.ReLU(inplace=True)] if relu else []))

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks, before = nn.ModuleList(), 3
            for i, (count, after) in enumerate(zip(BLOCKS, CHANNELS), 1):
                layers = []
                for j in range(1, count + 1):
                    layers.append(convolution(before, after, f"block{i}_conv{j}"))
                    before = after
                self.blocks.append(nn.Sequential(*layers))

        def forward(self, x):
            x, found = x / 255, []
            for i, block in enumerate(self.blocks):
                x = block(nn.functional.max_pool2d(x, 2) if i else x)
                found.append(x)
            return found

    class Block(nn.Module):
        def __init__(self, before: int, after: int, name: str):
            super().__init__()
            self.first = convolution(before, after, f"{name}_conv")
            self.change = convolution(after, after, f"{name}_change", relu=False)

        def forward(self, x, skip):
            x = torch.cat([nn.functional.interpolate(x, scale_factor=2, mode="nearest"), skip], 1)
            x = self.first(x)
            return nn.functional.relu(x + self.change(x))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = Encoder()
            if kind == "stage1":
                self.last = named(nn.Linear(CHANNELS[-1], 1), "lesion")
                return
            self.decoder, before = nn.ModuleList(), CHANNELS[-1]
            for i in reversed(range(len(CHANNELS) - 1)):
                after = max(CHANNELS[i] // 2, 16)
                self.decoder.append(Block(before + CHANNELS[i], after, f"block{2**i}"))
                before = after
            self.last = named(nn.Conv2d(before, 1, 1), "probability")

        def forward(self, x):
            features = self.encoder(x)
            x = features[-1]
            if kind == "stage1":
                return torch.sigmoid(self.last(x.mean((2, 3))))
            for block, skip in zip(self.decoder, reversed(features[:-1])):
                x = block(x, skip)
            return torch.sigmoid(self.last(x))

    def loss_of(answer: torch.Tensor) -> torch.Tensor:
        answer = answer.clamp(1e-7, 1 - 1e-7)
        loss = -(truth * answer.log() + (1 - truth) * (1 - answer).log()).mean()
        if kind == "stage1":
            return loss
        shared, both = torch.minimum(truth, answer).sum((0, 2, 3)), truth.sum((0, 2, 3)) + answer.sum((0, 2, 3))
        return loss + (1 - (2 * shared + 1) / (both + 1)).mean()

    model = Network().to(memory_format=torch.channels_last).train()
    given = torch.from_numpy(inputs.transpose(0, 3, 1, 2).copy()).to(memory_format=torch.channels_last)
    truth = torch.from_numpy(targets if targets.ndim == 2 else targets.transpose(0, 3, 1, 2).copy())
    if kind == "frozen":
        model.encoder.eval().requires_grad_(False)
    learned = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=RATE, eps=1e-7)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model(given))
        loss.backward()
        gradients = [one.grad for one in learned]
        scales = [torch.clamp(1 / norm, max=1.0) for norm in torch._foreach_norm(gradients)]
        torch._foreach_mul_(gradients, scales)  # each clipped by itself, as Keras' `clipnorm` does
        optimizer.step()
        return float(loss.detach())

    return step


def main() -> None:
    """Answer lines until there are no more."""
    backend, kind, folder = sys.argv[1:]
    with np.load(Path(folder) / "batch.npz") as batch:
        inputs, targets = batch["inputs"], batch["targets"]
    step = (theirs if backend == "torch" else ours)(kind, inputs, targets)
    for line in sys.stdin:
        clock, cpu, loss = time.perf_counter(), time.process_time(), 0.0
        for _ in range(int(line)):
            loss = step()
        used = dict(seconds=time.perf_counter() - clock, cpu=time.process_time() - cpu, loss=loss)
        print(json.dumps(used), flush=True)


if __name__ == "__main__":
    main()
