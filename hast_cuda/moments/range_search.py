"""The range with the smallest expected quantization error, from distributions instead of images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hast_cuda.moments.distribution import Distribution
from hast_cuda.ops import fake_quantize

_WIDTH = 6.0  # beyond so many standard deviations there is nothing to lose
_BINS = 2048
_COARSE, _FINE = 32, 4


def smallest_error_range(distributions: Sequence[Distribution], bits: int) -> tuple[float, float]:
    """Range [l, u] minimising ``E |x - Q(x)|^2`` over all given distributions, each equally likely.

    Both ends are shrunk from those of ``width=6`` towards 0 (or the end nearest to it): first over
    a grid of pairs, then over finer grids around the best.
    """
    ends = [d.bounds(_WIDTH) for d in distributions]
    lower, upper = min(low for low, _ in ends), max(high for _, high in ends)
    if lower == upper:
        return lower, upper
    points, mass = _histogram(distributions, lower, upper)
    fixed = min(max(0.0, lower), upper)

    def best(lows: Tensor, highs: Tensor) -> tuple[float, float]:
        low, high = torch.cartesian_prod(lows, highs).unbind(1)
        errors = _errors(points, mass, fixed + (lower - fixed) * low, fixed + (upper - fixed) * high, bits)
        index = int(errors.argmin())
        return float(low[index]), float(high[index])

    shares = torch.linspace(1 / _COARSE, 1, _COARSE, dtype=torch.float64)
    still = torch.ones(1, dtype=torch.float64)
    moves = lower < fixed, fixed < upper
    chosen = best(*(shares if move else still for move in moves))
    steps = torch.linspace(-1, 1, 2 * _FINE + 1, dtype=torch.float64)
    for zoom in range(1, 4):
        reach = 1 / (_COARSE * _FINE ** (zoom - 1))
        around = [
            (share + steps * reach).clamp(1e-3, 1) if move else still for share, move in zip(chosen, moves, strict=True)
        ]
        chosen = best(*around)
    return fixed + (lower - fixed) * chosen[0], fixed + (upper - fixed) * chosen[1]


def _histogram(distributions: Sequence[Distribution], lower: float, upper: float) -> tuple[Tensor, Tensor]:
    """Values [P] and their chances [P]; what lies at or beyond an end is a point at that end."""
    edges = torch.linspace(lower, upper, _BINS + 1, dtype=torch.float64)
    chance = torch.stack([d.cumulative(edges) for d in distributions]).mean(0)
    inner = (edges[:-1] + edges[1:]) / 2
    mass = torch.cat([chance[:1], chance.diff(), 1 - chance[-1:]])
    return torch.cat([edges[:1], inner, edges[-1:]]), mass


def _errors(points: Tensor, mass: Tensor, lower: Tensor, upper: Tensor, bits: int) -> Tensor:
    """Expected squared error of every candidate range: [K] and [K] -> [K]."""
    errors = []
    for low, high in zip(lower.split(128), upper.split(128), strict=True):  # [128, P] at a time
        x = points.expand(len(low), -1).contiguous()
        errors.append((x - fake_quantize(x, low, high, bits, 0)).square() @ mass)
    return torch.cat(errors)
