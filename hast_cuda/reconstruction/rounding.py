"""The weights of a block while training decides how each of them is rounded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hast_cuda.nn.quantized_weight import QuantizedWeight, symmetric_range
from hast_cuda.ops.arithmetic import RANGE_FLOOR, broadcast, quantizer_parameters
from hast_cuda.ops.soft_round_weights import GAMMA, ZETA, rectified_sigmoid, soft_round_weights
from hast_cuda.reconstruction.learned_step import LEAST

_CLEAR = 1e-3  # distance of h from 0 and 1 at the start: at the ends it has no gradient


class SoftRounding:
    """Rounding variables V and steps of ``layers``, begun so that the weights are ``originals``.

    The levels of a layer's grid are those of its range: lowest level, number of levels and, until
    it is trained, the step. :attr:`roundings` are V of AdaRound's Eq. 22, :attr:`factors` the steps
    per output channel in units of those of the start. ``search`` takes ranges of the smallest
    rounding error in place of those that the layers have.
    """

    def __init__(self, layers: Sequence[QuantizedWeight], originals: Sequence[Tensor], *, search: bool = False) -> None:
        self.layers = list(layers)
        self.bits = [layer.weight_bits for layer in layers]
        self.bases: list[Tensor] = []
        self.lows: list[Tensor] = []
        self.steps: list[Tensor] = []
        self.roundings: list[nn.Parameter] = []
        self.factors: list[nn.Parameter] = []
        for layer, weight in zip(layers, originals, strict=True):
            if search:
                layer.fix_weight_range(search_weight_range(weight, layer.weight_bits, symmetric=layer.symmetric))
            elif layer.weight_range is None:
                layer.fix_weight_range()
            assert layer.weight_range is not None
            real = layer.zero_point == "real"
            lower, upper = layer.weight_range
            scale, zero = quantizer_parameters(lower, upper, layer.weight_bits, real_zero_point=real)
            low = zero - 2 ** (layer.weight_bits - 1)
            levels = weight * broadcast(scale, weight, 0) - broadcast(low, weight, 0)
            base = levels.floor()
            up = (levels - base).clamp(_CLEAR, 1 - _CLEAR)
            self.steps.append(scale.reciprocal())
            self.lows.append(low)
            self.bases.append(base + broadcast(low, weight, 0))
            self.roundings.append(nn.Parameter(-torch.log((ZETA - GAMMA) / (up - GAMMA) - 1)))
            self.factors.append(nn.Parameter(torch.ones_like(scale)))
        self.count = sum(v.numel() for v in self.roundings)

    def soft(self, beta: Tensor) -> Tensor:
        """Give the layers weights between two levels; Eq. 24 as a mean over the weights, 0-d."""
        steps = [factor.clamp(min=LEAST) * step for factor, step in zip(self.factors, self.steps, strict=True)]
        weights, total = soft_round_weights(self.bases, self.roundings, steps, self.lows, self.bits, beta)
        for layer, weight in zip(self.layers, weights, strict=True):
            layer.cached_weight = weight
        assert total is not None
        return total / self.count

    @torch.no_grad()
    def harden(self) -> None:
        """Put the layers' weights on the levels that were decided for, and keep that grid."""
        for index, layer in enumerate(self.layers):
            layer.cached_weight = None
            step, low = self.steps[index] * self.factors[index].clamp(min=LEAST), self.lows[index]
            most = 2 ** self.bits[index] - 1
            up = (rectified_sigmoid(self.roundings[index]) >= 0.5).to(step.dtype)
            base, least = self.bases[index], broadcast(low, self.bases[index], 0)
            level = (base + up).clamp(least, least + most)
            layer.weight.copy_(level * broadcast(step, level, 0))
            layer.fix_weight_range(torch.stack((low * step, (low + most) * step)))


def search_weight_ranges(model: nn.Module) -> None:
    """Give every quantized layer of ``model`` the range of :func:`search_weight_range`."""
    for layer in model.modules():
        if isinstance(layer, QuantizedWeight):
            layer.fix_weight_range(search_weight_range(layer.weight, layer.weight_bits, symmetric=layer.symmetric))


@torch.no_grad()
def search_weight_range(
    weight: Tensor, bits: int, *, symmetric: bool = False, power: float = 2.4, candidates: int = 61
) -> Tensor:
    """Range [2, out] of the smallest rounding error ``sum |w - Q(w)|^power`` per output channel.

    Tried are fractions from 1 to 0.4 of minimum and maximum, on grids that have an exact zero; or,
    ``symmetric``, of :func:`symmetric_range`.
    """
    rows = weight.flatten(1)
    low, high = symmetric_range(weight, bits) if symmetric else rows.aminmax(dim=1)
    low, high = low.clamp(max=0), high.clamp(min=0)
    best = torch.full_like(low, float("inf"))
    found = torch.stack((low, high))
    most = 2**bits - 1
    for fraction in torch.linspace(1.0, 0.4, candidates).tolist():
        step = ((high - low) * fraction / most).clamp(min=RANGE_FLOOR)
        least = (low * fraction / step).round()
        levels = (rows / step[:, None]).round().clamp(least[:, None], least[:, None] + most)
        error = (levels * step[:, None] - rows).abs().pow(power).sum(1)
        better = error < best
        best = torch.where(better, error, best)
        found = torch.where(better, torch.stack((least * step, (least + most) * step)), found)
    return found
