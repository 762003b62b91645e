"""Small networks whose layers are dead, constant, of one sign or without spread."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from networks import CHANNELS, SIZE, TinyNet, pictures, tiny
from torch import Tensor, nn

import hast_cuda.methods as all_methods
from hast_cuda.data import Images
from hast_cuda.methods import Recipe, change

TINY: dict[str, Any] = {
    "synthesis.num_images": 12,
    "synthesis.batch_size": 8,
    "synthesis.iterations": 3,
    "synthesis.slack_images": 8,
    "finetune.batch_size": 8,
    "finetune.calibration_updates": 2,
    "finetune.calibration_batch_size": 8,
    "finetune.evaluations": 1,
    "generator.warmup": 3,
    "generator.superpose_classes": 2,
}


# For tests of every method; those that are left to the slow ones share their code with one of these.
KINDS = {"hast", "intraq", "qimera", "dsg", "genie", "synq", "squant", "dfq", "real_data"}
METHODS = [name for name in all_methods.available() if name in KINDS]
EVERY = [pytest.param(name, marks=[] if name in KINDS else pytest.mark.slow) for name in all_methods.available()]


def small_recipe(method: str, preset: str = "default", **changes: Any) -> Recipe:
    """A method on a budget of seconds."""
    found = all_methods.recipe(method, preset, "cifar10")
    return change(found, TINY | few_steps(found) | changes)


def few_steps(recipe: Recipe) -> dict[str, Any]:
    """Three of each kind that ``recipe`` takes."""
    return {
        "reconstruction.iterations": 3 if recipe.reconstruction.iterations else 0,
        "finetune.iterations": 3 if recipe.finetune.iterations else 0,
    }


@torch.no_grad()
def edges() -> TinyNet:
    """A channel for every edge in the first layer, and dead ones in the second."""
    network = tiny()
    conv, norm, _, last, after, _ = network.features
    conv.weight[0] = 0  # a dead filter: its output is the bias of its BatchNorm
    conv.weight[1] = 0.05  # a constant one: a range without width
    conv.weight[2] = -conv.weight[2].abs() - 0.01  # ranges of one sign
    conv.weight[3] = conv.weight[3].abs() + 0.01
    norm.running_mean[0], norm.running_var[0] = 0.0, 0.0  # as training leaves a dead filter
    norm.running_var[1] = 1e-40
    norm.running_var[4] = 1e6
    norm.weight[5] = 0.0  # the channel is its bias, whatever comes
    norm.weight[2] = -norm.weight[2]
    last.weight[0] = 0
    after.running_mean[0], after.running_var[0] = 0.0, 0.0
    after.weight[1], after.bias[1] = 0.0, -1.0  # always below 0
    network.output.weight[0] = 0
    return network


@torch.no_grad()
def silent() -> TinyNet:
    """The first ReLU gives nothing but zeros: a range without width, and dead maps behind it."""
    network = tiny()
    norm = network.features[1]
    norm.weight.zero_()
    norm.bias.fill_(-1.0)
    return network


class OnePixel(nn.Module):
    """Maps of one pixel from the first layer on, and ``classes`` classes; [N, 3, 8, 8]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.num_classes = classes
        self.features = nn.Sequential(
            nn.Conv2d(CHANNELS, 6, SIZE, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        )
        self.output = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.output(self.features(x).flatten(1))
        return logits


def one_pixel(classes: int) -> OnePixel:
    """The same network at every call, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        network = OnePixel(classes)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.5)
                module.running_var.uniform_(0.5, 2)
    return network.eval()


def two_classes() -> OnePixel:
    """What ``hast-cuda quantize --model edge_networks:two_classes`` builds."""
    return one_pixel(2)


def labelled(count: int, classes: int) -> Images:
    """Images as those of a data set."""
    return Images(pictures(count), torch.arange(count) % classes)


def all_finite(network: nn.Module) -> bool:
    """Whether every parameter and buffer is."""
    tensors = network.state_dict().values()
    return all(bool(t.isfinite().all()) for t in tensors if t.is_floating_point())
