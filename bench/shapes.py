"""The inputs of the benchmarks: maps and weights of real networks, and ragged ones."""

from __future__ import annotations

import torch
from pytorchcv.model_provider import get_model
from torch import Tensor, nn

Shape = tuple[int, ...]

# ResNet-20 at batch 256, ResNet-18 and MobileNetV2 at batch 16, ragged.
MAPS: list[Shape] = [
    (256, 16, 32, 32),
    (256, 32, 16, 16),
    (256, 64, 8, 8),
    (16, 64, 112, 112),
    (16, 64, 56, 56),
    (16, 512, 7, 7),
    (16, 192, 28, 28),
    (7, 33, 13, 5),
    (3, 17, 61, 67),
]
# ResNet-18 at batch 256: 822, 206 and 26 MB.
LARGE_MAPS: list[Shape] = [(256, 64, 112, 112), (256, 64, 56, 56), (256, 512, 7, 7)]
WEIGHTS: list[Shape] = [(64, 64, 3, 3), (512, 512, 3, 3), (1000, 512), (33, 17, 5, 3)]
NETWORKS = ("resnet20_cifar10", "resnet18", "mobilenetv2_w1")
# The weights of a residual unit.
BLOCKS: dict[str, list[Shape]] = {
    "ResNet-20, 64 channels": [(64, 64, 3, 3)] * 2,
    "MobileNetV2, 32 channels": [(192, 32, 1, 1), (192, 1, 3, 3), (32, 192, 1, 1)],
    "ResNet-18, 512 channels": [(512, 512, 3, 3)] * 2,
}
# What the feature alignment compares: the output of every residual unit.
UNITS: dict[str, list[Shape]] = {
    "ResNet-20, batch 256": [(256, 16 << k, 32 >> k, 32 >> k) for k in (0, 0, 0, 1, 1, 1, 2, 2, 2)],
    "ResNet-18, batch 16": [(16, 64 << k, 56 >> k, 56 >> k) for k in (0, 0, 1, 1, 2, 2, 3, 3)],
}
LARGE_UNITS: dict[str, list[Shape]] = {
    "ResNet-18, batch 256": [(256, *shape[1:]) for shape in UNITS["ResNet-18, batch 16"]]
}


def maps(large: bool) -> list[Shape]:
    """Shapes of activations, the telling ones first: a run that is cut off keeps those."""
    return [*MAPS[:3], *LARGE_MAPS, *MAPS[3:]] if large else MAPS


def units(large: bool) -> dict[str, list[Shape]]:
    """Shapes of the maps of a network's residual units."""
    return {**UNITS, **LARGE_UNITS} if large else UNITS


def label(shape: Shape) -> str:
    """A shape as the tables write it."""
    return "x".join(map(str, shape))


def network_weights(name: str, device: torch.device) -> list[Tensor]:
    """All convolution and linear weights of a network with random values."""
    network = get_model(name, pretrained=False)
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    return [layer.weight.detach().to(device) for layer in layers]


def norm_channels(name: str) -> list[int]:
    """Channels of every BatchNorm of a network."""
    network = get_model(name, pretrained=False)
    return [m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
