"""A Gaussian behind any elementwise activation function, by quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hast_cuda.moments.distribution import Distribution
from hast_cuda.ops.activations import UPPER

Function = Callable[[Tensor], Tensor]
_REACH, _POINTS = 8.0, 1025  # standard deviations on each side; a kink costs 1e-4 of one
_NEAR, _FAR = 100.0, 1e6  # where functions are looked at, and whether they go on


@dataclass(frozen=True)
class MappedDistribution(Distribution):
    """``function(clip(x))`` for the Gaussian x of every channel."""

    function: Function = torch.clone

    def activated(self, activation: str | None) -> Distribution:
        """What ReLU or ReLU6 behind the function makes of it."""
        if activation is None:
            return self
        return mapped(self, lambda x: x.clamp(0.0, UPPER[activation]))

    def moments(self) -> tuple[Tensor, Tensor]:
        """(mean, variance), [C] each, behind the function."""
        values, weights = self._values()
        mean = values @ weights
        return mean, (values - mean[:, None]).square() @ weights

    def bounds(self, width: float) -> tuple[float, float]:
        """[min, max] of the function over ``mean_c +- width*std_c`` of all channels."""
        reached = self._at(torch.linspace(-width, width, 257, dtype=torch.float64))
        return float(reached.min()), float(reached.max())

    def cumulative(self, at: Tensor) -> Tensor:
        """Chance that a value, of any channel, is at most ``at``: [P] -> [P]."""
        values, weights = self._values()
        ordered, order = values.flatten().sort()
        chance = weights.expand_as(values).flatten()[order].cumsum(0) / len(values)
        below = torch.searchsorted(ordered, at, right=True)
        return torch.cat([chance.new_zeros(1), chance])[below].clamp(max=1.0)

    def _values(self) -> tuple[Tensor, Tensor]:
        """Values [C, K] at K points of the Gaussian, and the points' weights [K]."""
        z = torch.linspace(-_REACH, _REACH, _POINTS, dtype=torch.float64)
        weights = torch.exp(-z.square() / 2)
        return self._at(z), weights / weights.sum()

    def _at(self, z: Tensor) -> Tensor:
        """Values [C, K] at ``mean + std * z``."""
        return self.function((self.mean[:, None] + self.std[:, None] * z).clamp(*self.clip))


def mapped(x: Distribution, function: Function) -> MappedDistribution:
    """``function`` of what ``x`` describes; it may work in place."""
    before = x.function if isinstance(x, MappedDistribution) else None
    both = function if before is None else lambda values: function(before(values))
    return MappedDistribution(x.mean, x.std, x.clip, _support(function, x.support), both)


def _support(function: Function, support: tuple[float, float]) -> tuple[float, float]:
    """Bounds of a function over an interval, infinite where it goes on beyond what is looked at."""
    low, high = (min(max(end, -_NEAR), _NEAR) for end in support)
    reached = function(torch.linspace(low, high, 20_001, dtype=torch.float64))
    least, most = float(reached.min()), float(reached.max())
    for end in support:
        if abs(end) > _NEAR:
            far = float(function(torch.tensor([math.copysign(_FAR, end)], dtype=torch.float64)))
            least = -math.inf if far < least - 1 else least
            most = math.inf if far > most + 1 else most
    return least, most
