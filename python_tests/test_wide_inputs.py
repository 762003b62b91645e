"""What no activation function gave keeps 8 bits where the inputs of layers are quantized."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.nn.wide_inputs import wide_inputs


class Functional(nn.Module):
    """ReLU as a function; two layers read the image, one of them normalised, and two read means."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.stem, self.side = nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
        self.body, self.narrow = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)
        self.gate, self.output = nn.Linear(8, 8), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.stem(self.norm(x)) + self.side(x))
        y = F.relu(self.body(y))
        y = y * torch.sigmoid(self.gate(y.mean((2, 3))))[:, :, None, None]
        y = torch.cat((F.relu(self.narrow(y)), y), 1)
        return self.output(F.adaptive_avg_pool2d(y, 1).flatten(1))


class Bottlenecks(nn.Module):
    """A layer behind each thing that can stand between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
        for name in ("linear", "total", "swish", "joined", "scaled"):
            self.add_module(name, nn.Conv2d(16 if name == "joined" else 8, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.norm(self.linear(x))
        y = y + self.norm(self.total(x + y))
        y = self.swish(y * torch.sigmoid(y))
        y = self.joined(torch.cat((y, F.silu(y)), 1))
        return self.scaled(y.mul(2)).mean((2, 3))


class Branching(Functional):
    """The same, in a way that torch.fx cannot follow."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(-x if x.sum() < 0 else x)


def _widths(model: nn.Module, **how: int) -> dict[str, int | None]:
    return {
        row.name: row.act_bits for row in hc.quantization_table(hc.quantize(model, 3, 3, placement="all", **how)).rows
    }


def test_images_and_means_have_eight_bits() -> None:
    eight = {"stem": 8, "side": 8, "gate": 8, "output": 8}
    assert _widths(Functional()) == {**eight, "body": 3, "narrow": 3}
    assert _widths(Functional(), sum_bits=5) == {**dict.fromkeys(eight, 5), "body": 3, "narrow": 3}


def test_what_no_activation_gave_is_wide() -> None:
    assert wide_inputs(Bottlenecks()) == {"stem", "total", "scaled"}


@pytest.mark.parametrize("first", [lambda x: x.double().float(), lambda x: F.interpolate(x, scale_factor=2) * 2 - 1])
def test_an_image_that_was_worked_on_is_an_image(first: Callable[[Tensor], Tensor]) -> None:
    class Prepared(Functional):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(first(x))

    class Softened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(first(F.relu(self.stem(x)))).mean((2, 3))

    assert wide_inputs(Prepared()) == {"stem", "side", "gate", "output"}
    assert wide_inputs(Softened()) == {"stem"}


def test_without_a_graph_few_channels_are_an_image() -> None:
    assert wide_inputs(Branching()) == {"stem", "side"}


def test_a_layer_that_reads_a_mean_once_and_a_map_once_is_narrow() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.twice = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.stem(x))
            return (self.twice(F.relu(self.twice(y))) + self.twice(F.adaptive_avg_pool2d(y, 1))).mean((2, 3))

    assert wide_inputs(Twice()) == {"stem"}


@pytest.mark.parametrize(("override", "found"), [(hc.Override(4, 4), 4), (hc.Override(4, None), None)])
def test_an_override_wins(override: hc.Override, found: int | None) -> None:
    student = hc.quantize(Functional(), 3, 3, placement="all", overrides={"stem": override})
    assert {row.name: row.act_bits for row in hc.quantization_table(student).rows}["stem"] == found


def test_weights_alone_stay_weights_alone() -> None:
    student = hc.quantize(Functional(), 3, None, placement="all")
    assert not hc.quantization_table(student).quantized_activations
