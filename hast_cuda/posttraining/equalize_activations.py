"""Channels that share an activation range, brought to ranges of one size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hast_cuda.checks.typed import typed
from hast_cuda.moments.distribution import Distribution
from hast_cuda.networks.layer_graph import LayerGraph, Pair
from hast_cuda.networks.statistics import output_moments
from hast_cuda.posttraining.channels import grouped, rescale

# A Gaussian passes 8 standard deviations once in 10^15 values: what ReLU6 cuts stays what it cut.
_WIDTH = 8.0
_LARGEST_GAIN = 1e3  # a channel that is nearly dead stays nearly dead
_POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)


@typed
@torch.no_grad()
def equalize_activations(model: nn.Module) -> nn.Module:
    """Balance the ranges of activation channels between neighbouring layers; the function stays.

    Activations have one range per tensor, weights one per output channel. A channel whose range ``r =
    max(beta + 8*|gamma|, 0)``, from its BatchNorm, is a tenth of the largest has a tenth of the levels.
    Multiplied by ``g = (max(r)/r)^p`` it has more: ``gamma *= g``, ``beta *= g``, and the layer that
    reads it has ``W2[:, i] /= g``, so that the network computes the same. What that costs is levels
    of the weights: W2's rows are less even, and read larger values. p is the one of 0, 1/4, 1/2, 3/4, 1
    that gives an output of W2 the least expected noise, with as many levels for activations (of range
    R) as for weights (of row o from -m_o to m_o)::

        R^2 * sum_i (W2[o, i]/g_i)^2  +  (2*m_o)^2 * sum_i g_i^2 * E[x_i^2]

    For a depthwise layer, whose rows read one channel each, p is 1: the gain is free.

    A pair is two layers as in :func:`hast_cuda.posttraining.equalize`, with a BatchNorm (or one that
    was folded) behind the first and ReLU, LeakyReLU or ``nn.ReLU6`` in front of the second. Under
    ReLU6, gains end at 6/r: the function changes only where a value is beyond 8 standard deviations.
    What has none of this stays as it is.

    Args:
        model: float network, edited.

    Returns:
        ``model`` itself.

    Raises:
        ValueError: torch.fx cannot follow the network.

    Example:
        >>> import hast_cuda as hc
        >>> network = equalize_activations(hc.load_teacher("digits"))
    """
    for pair in LayerGraph(model).pairs(normalized=True):
        channels = _Channels.between(pair)
        if channels is not None:
            rescale(pair, channels.gains(pair).to(pair.second.weight.device))
    return model


@dataclass(frozen=True)
class _Channels:
    """Activation channels between two layers, [channels] float64 each."""

    ranges: Tensor
    """Largest absolute value."""
    power: Tensor
    """Mean square."""
    top: float
    """Range to bring them to: the largest, or where ReLU6 cuts."""

    @classmethod
    def between(cls, pair: Pair) -> _Channels | None:
        """None where there is no activation, no channel that is alive, or nothing known of them."""
        norm = pair.norm
        moments = output_moments(pair.first) if norm is None else (norm.bias, norm.weight)
        slopes = [slope for kind in pair.between if (slope := _slope(kind)) is not None]
        if moments is None or not slopes:
            return None
        slope, cut = math.prod(slopes), any(isinstance(kind, nn.ReLU6) for kind in pair.between)
        values, negated = Distribution.of(*moments), Distribution.of(-moments[0], moments[1])
        above, below = ((d.mean + _WIDTH * d.std).clamp(min=0) for d in (values, negated))
        ranges = torch.maximum(above, slope * below).clamp(max=6.0 if cut else math.inf)
        power = _power(values, "relu6" if cut else "relu") + slope**2 * _power(negated, "relu")
        top = 6.0 if cut else float(ranges.max())
        return cls(ranges, power, top) if top > 0 else None

    def gains(self, pair: Pair) -> Tensor:
        """Those of the least expected noise behind the second layer."""
        full = (self.top / self.ranges).clamp(max=_LARGEST_GAIN)
        full = torch.where(self.ranges > 0, full, 1.0)
        weight = grouped(pair.second, pair.second.weight).double().cpu()
        tried = [full**power for power in _POWERS]
        return min(tried, key=lambda gains: self._noise(weight, gains))

    def _noise(self, weight: Tensor, gains: Tensor) -> float:
        """Mean over the outputs of the logarithm of their noise, up to a constant; see above."""
        groups, _, _, positions = weight.shape
        gain, power = (v.reshape(groups, 1, -1) for v in (gains, self.power))
        largest, squares = weight.abs().amax(-1) / gain, weight.square().sum(-1) / gain.square()
        of_activations = float((gains * self.ranges).max()) ** 2 * squares.sum(-1)
        of_weights = (2 * largest.amax(-1)) ** 2 * positions * (gain.square() * power).sum(-1)
        noise = of_activations + of_weights
        return float(noise[noise > 0].log().mean()) if bool((noise > 0).any()) else 0.0


def _slope(kind: nn.Module | str) -> float | None:
    """What an activation multiplies negative values by; None of what is no activation."""
    if isinstance(kind, nn.LeakyReLU):
        return kind.negative_slope
    return 0.0 if kind == "relu" or isinstance(kind, nn.ReLU6) else None


def _power(distribution: Distribution, activation: str) -> Tensor:
    """Mean square behind ``activation``."""
    mean, variance = distribution.activated(activation).moments()
    return mean.square() + variance
