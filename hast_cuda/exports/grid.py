"""The integers behind fake-quantized values: what every export stores.

They follow from the formulas (:mod:`hast_cuda.ops.reference`), not from what the kernels gave:
comparing them with ``quantized_weight()`` tests both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hast_cuda.nn import FakeQuantActivation
from hast_cuda.nn.quantized_weight import QuantizedWeight
from hast_cuda.ops.reference import arithmetic_dtype, quantize_integers, quantizer_parameters


@dataclass(frozen=True)
class Grid:
    """Eq. 1-2 in the terms of integer runtimes: ``value = step * (code - zero_point)``.

    With S and z of Eq. 1: ``step = 1 / S``, ``zero_point = 2^(bits-1) - z``, codes from 0 to
    ``2^bits - 1``.
    """

    bits: int
    step: Tensor  # [channels], float32 (float64 for float64 networks)
    zero_point: Tensor  # [channels], int64; outside the codes where a range does not contain 0
    bounds: Tensor  # [2, channels], lower and upper end: S and z follow from it bit by bit

    @property
    def exact_step(self) -> Tensor:
        """1/S not rounded to the dtype of S, float64 [channels]."""
        lower, upper = self.bounds.unbind()
        exact: Tensor = 1 / quantizer_parameters(lower, upper, self.bits)[0].double()
        return exact

    @property
    def contains_zero(self) -> Tensor:
        """Which channels can represent 0, bool [channels]."""
        inside: Tensor = (self.zero_point >= 0) & (self.zero_point < 2**self.bits)
        return inside


@dataclass(frozen=True)
class Affine:
    """A grid with one channel in plain numbers."""

    bits: int
    step: float
    zero_point: int

    @classmethod
    def of(cls, grid: Grid) -> Affine:
        """Of the grid of an activation."""
        return cls(grid.bits, float(grid.exact_step), int(grid.zero_point))

    @property
    def largest(self) -> int:
        """Largest code."""
        return (1 << self.bits) - 1

    @property
    def contains_zero(self) -> bool:
        """Some code stands for 0."""
        return 0 <= self.zero_point <= self.largest

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest value."""
        return -self.step * self.zero_point, self.step * (self.largest - self.zero_point)

    def code(self, x: float) -> int:
        """That of a number."""
        return round(min(max(self.zero_point + x / self.step, 0), self.largest))


@dataclass(frozen=True)
class WeightCodes:
    """A layer's quantized weight as integers."""

    codes: Tensor  # uint8, shape of the weight, 0 to ``2^bits - 1``
    grid: Grid  # one channel per output channel (first axis)


@torch.no_grad()
def weight_codes(layer: QuantizedWeight, name: str = "") -> WeightCodes:
    """Codes of ``layer.quantized_weight()``, on the CPU.

    ValueError: ``zero_point="real"``, whose grid no integer format can store; weights that are not finite.
    """
    if layer.zero_point == "real":
        raise ValueError(
            f'layer {name!r} has zero_point="real": no integer format can store that grid; '
            'quantize with zero_point="integer"'
        )
    weight = layer.weight.detach().cpu()
    if not bool(torch.isfinite(weight).all()):
        raise ValueError(f"the weight of layer {name!r} contains NaN or infinity")
    exact = weight.to(arithmetic_dtype(weight.dtype))
    if layer.weight_range is not None:
        lower, upper = layer.weight_range.cpu().unbind()
    elif weight.numel():
        lower, upper = exact.flatten(1).aminmax(dim=1)
    else:
        lower = upper = exact.new_zeros(len(exact))  # of nothing: any grid will do
    grid = grid_of(lower, upper, layer.weight_bits)
    signed = quantize_integers(exact.to(lower.dtype), lower, upper, grid.bits, 0)
    return WeightCodes((signed + 2 ** (grid.bits - 1)).to(torch.uint8), grid)


@torch.no_grad()
def activation_grid(quantizer: FakeQuantActivation, name: str = "") -> Grid:
    """One channel, on the CPU; ValueError for a range that is not frozen or not finite."""
    if quantizer.observing:
        raise ValueError(f"activation range of {name!r} is not frozen: calibrate the network first")
    lower, upper = quantizer.range_state[:2].detach().cpu().reshape(2, 1)
    if not bool(torch.isfinite(lower) & torch.isfinite(upper)):
        raise ValueError(f"activation range of {name!r} is not finite: calibrate the network again")
    return grid_of(lower, upper, quantizer.bits)


def grid_of(lower: Tensor, upper: Tensor, bits: int) -> Grid:
    """The grid of Eq. 1 for ranges [channels]."""
    scale, zero = quantizer_parameters(lower, upper, bits)
    zero_point = (2 ** (bits - 1) - zero).to(torch.int64)
    return Grid(bits, 1 / scale, zero_point, torch.stack([lower, upper]))


def float_bytes(student: nn.Module) -> int:
    """What the parameters of a network take as float32."""
    return 4 * sum(p.numel() for p in student.parameters())


def values_of(codes: Tensor, grid: Grid, axis: int = 0) -> Tensor:
    """``(q + z) / S`` bit by bit as the layer computes it, from codes of any shape."""
    shape = [1] * codes.dim()
    shape[axis] = -1
    lower, upper = grid.bounds.unbind()
    scale, zero = quantizer_parameters(lower, upper, grid.bits)
    signed = codes.to(scale.dtype) - 2 ** (grid.bits - 1)
    values: Tensor = (signed + zero.reshape(shape)) / scale.reshape(shape)
    return values
