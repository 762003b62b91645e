"""Per-channel Gaussian model of a feature map, as BatchNorm parameters give it (DFQ, ICCV 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hast_cuda.ops.activations import UPPER

UNBOUNDED = (-math.inf, math.inf)
_SMALLEST_STD = 1e-30  # a constant channel: its distribution function is a step


@dataclass(frozen=True)
class Distribution:
    """Channel c holds N(mean[c], std[c]^2), clipped to ``clip``; float64 on the CPU.

    Channels are independent of one another and of their position in the map. One channel stands
    for any number of equal ones.
    """

    mean: Tensor
    """[C], of the Gaussian before it is clipped."""
    std: Tensor
    """[C], of the Gaussian before it is clipped."""
    clip: tuple[float, float] = UNBOUNDED
    """What activation functions cut values to."""
    support: tuple[float, float] = UNBOUNDED
    """Bounds that values are known to keep; a sum's are the sums of its terms'."""

    @staticmethod
    def of(mean: Tensor, std: Tensor) -> Distribution:
        """Gaussian with these parameters, from any device and dtype; the sign of std is dropped."""
        mean, std = (v.detach().to("cpu", torch.float64) for v in (mean, std.abs()))
        return Distribution(mean, std)

    def activated(self, activation: str | None) -> Distribution:
        """What the activation makes of it: None, "relu" or "relu6"."""
        if activation is None:
            return self
        low, high = 0.0, UPPER[activation]
        clip, support = ((min(max(a, low), high), max(min(b, high), low)) for a, b in (self.clip, self.support))
        return Distribution(self.mean, self.std, clip, support)

    def moments(self) -> tuple[Tensor, Tensor]:
        """(mean, variance), [C] each, after clipping."""
        return clipped_moments(self.mean, self.std, *self.clip)

    def plus(self, other: Distribution) -> Distribution | None:
        """Sum of independent maps: means and variances add; None if the channels do not match."""
        if len({len(self.mean), len(other.mean), 1}) > 2:
            return None
        (mean, variance), (more, spread) = self.moments(), other.moments()
        support = (self.support[0] + other.support[0], self.support[1] + other.support[1])
        return Distribution(mean + more, (variance + spread).sqrt(), UNBOUNDED, support)

    def bounds(self, width: float) -> tuple[float, float]:
        """[min_c(mean - width*std), max_c(mean + width*std)], cut to what can occur."""
        low, high = self.support
        ends = (self.mean - width * self.std).min(), (self.mean + width * self.std).max()
        lower, upper = (min(max(float(end), low), high) for end in ends)
        return lower, upper

    def cumulative(self, at: Tensor) -> Tensor:
        """Chance that a value, of any channel, is at most ``at``: [P] -> [P]."""
        total = torch.zeros_like(at)
        scale = self.std.clamp(min=_SMALLEST_STD)
        for start in range(0, len(self.mean), 256):  # [256, P] at a time
            part = slice(start, start + 256)
            z = (at - self.mean[part, None]) / scale[part, None]
            total += torch.special.ndtr(z).sum(0)
        chance = total / len(self.mean)
        chance = torch.where(at < self.clip[0], 0.0, chance)
        return torch.where(at >= self.clip[1], 1.0, chance)


def concatenate(parts: Sequence[Distribution]) -> Distribution:
    """The channels of all parts, one after the other."""
    support = (min(p.support[0] for p in parts), max(p.support[1] for p in parts))
    if len({p.clip for p in parts}) == 1 and all(type(p) is Distribution for p in parts):
        mean, std = torch.cat([p.mean for p in parts]), torch.cat([p.std for p in parts])
        return Distribution(mean, std, parts[0].clip, support)
    moments = [p.moments() for p in parts]
    mean = torch.cat([m for m, _ in moments])
    return Distribution(mean, torch.cat([v.sqrt() for _, v in moments]), UNBOUNDED, support)


def clipped_moments(mean: Tensor, std: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Mean and variance of clip(x, low, high), x ~ N(mean, std^2).

    With a = (low - mean)/std and ReLU's high = inf, the mean is ``mean*(1 - Phi(a)) + std*phi(a)``
    (DFQ, appendix C). Bounds are infinite where nothing is cut.
    """
    first, second = mean, mean.square() + std.square()
    scale = std.clamp(min=_SMALLEST_STD)
    for bound, side in ((low, -1.0), (high, 1.0)):
        if math.isinf(bound):
            continue
        # The part of x beyond the bound is replaced by the bound; z points outwards.
        z = side * (bound - mean) / scale
        beyond = torch.special.ndtr(-z)
        density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
        first = first + (bound - mean) * beyond - side * std * density
        cut = (mean.square() + std.square()) * beyond + side * std * density * (mean + bound)
        second = second + bound**2 * beyond - cut
    first = first.clamp(low, high)
    return first, (second - first.square()).clamp(min=0)
