"""Integer requantization without error: parameters that put every sum on the code it belongs to.

A convolution's sums are integers a. Its output code is above i exactly where ``a > T_i``, with
``T_i = ((i + 1/2)*s_y - bias) / (s_x*s_w)``: at n bits, ``2^n - 1`` thresholds between integers.
The operator computes ``round((k*a + B) * m)`` instead, with an integer bias B. It gives the same
codes if its thresholds ``((i + 1/2)/m - B) / k`` lie between the same integers. With ``beta = B/k``
and ``sigma = 1/(k*m)`` that is, for every i,

    floor(T_i) + beta < (i + 1/2)*sigma < floor(T_i) + 1 + beta

an interval for sigma once beta is chosen. The room that 8 bits leave above 3- or 4-bit integers
goes into k: the more k fit, the more fractions beta there are to choose from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hast_cuda.exports.editing import Array
from hast_cuda.exports.grid import Affine

_MULTIPLIERS = 128
_LARGEST_SUM = 2**24  # runtimes turn sums into float32
_MARGIN = 2e-6  # relative width of the interval: some float32 roundings


@dataclass(frozen=True)
class Requantization:
    """Per output channel: ``round((k*a + B) * s_x*s_w / s_y)`` with ``scale`` for s_w."""

    multiplier: Array  # k, int64
    bias: Array  # b, int64
    scale: Array  # float64


def exact_requantization(
    integers: Array, scale: Array, bias: Array, before: Affine, after: Affine, *, first: int, last: int, largest: int
) -> Requantization | None:
    """The parameters, or None where some channel has none that are exact.

    ``integers`` [out, n] are weights with zero point 0 and scale s_w (float64 [out], positive), all
    float64; ``before`` and ``after`` have s_x and s_y. Codes below ``first`` or above ``last`` are
    clipped; ``largest`` is what ``k * integers`` may reach.
    """
    lowest_sum, highest_sum = _reach(integers, before)
    unit = before.step * scale
    middles = np.arange(first - after.zero_point, last - after.zero_point) + 0.5  # i + 1/2
    below, above = _between((middles * after.step - bias[:, None]) / unit[:, None], lowest_sum, highest_sum)
    biggest = np.abs(integers).max(axis=1, initial=0)
    sums = np.maximum(np.abs(lowest_sum), np.abs(highest_sum))
    k = np.arange(1, _MULTIPLIERS + 1)
    near = np.rint(bias[:, None] / unit[:, None] * k)
    rows, best = np.arange(len(scale)), np.full(len(scale), -np.inf)
    chosen = np.zeros((3, len(scale)))
    for step in (0, -1, 1):
        counts = near + step  # B, [out, k]
        low, high = _interval(below, above, middles, counts / k)
        with np.errstate(invalid="ignore", over="ignore"):  # from 0 on it is infinitely wide
            width = np.where(np.isinf(high), np.inf, (high - low) / np.maximum(low, 1e-300))
        fits = (k * biggest[:, None] <= largest) | (k == 1)
        fits &= k * sums[:, None] + np.abs(counts) < _LARGEST_SUM
        width = np.where(fits & (high > low), width, -np.inf)
        index = width.argmax(axis=1)
        better = width[rows, index] > best
        sigma = _inside(low[rows, index], high[rows, index], after.step / unit)
        found = np.stack([k[index], counts[rows, index], sigma])
        chosen = np.where(better, found, chosen)
        best = np.where(better, width[rows, index], best)
    if (best < _MARGIN).any():
        return None
    multiplier, counts, sigma = chosen
    return Requantization(
        multiplier.astype(np.int64), counts.astype(np.int64), after.step / (sigma * multiplier * before.step)
    )


def nearest_requantization(
    integers: Array, scale: Array, bias: Array, before: Affine, *, largest: int
) -> Requantization:
    """The exact scale, and of the multipliers that fit the one whose multiples of 1/k come next to the bias.

    Sums next to a border between two codes may fall on its other side. Arguments as above.
    """
    lowest_sum, highest_sum = _reach(integers, before)
    unit = before.step * scale
    biggest = np.abs(integers).max(axis=1, initial=0)
    sums = np.maximum(np.abs(lowest_sum), np.abs(highest_sum))
    k = np.arange(1, _MULTIPLIERS + 1)
    wanted = (bias / unit)[:, None]
    counts = np.rint(wanted * k)
    fits = (k * biggest[:, None] <= largest) & (k * sums[:, None] + np.abs(counts) < _LARGEST_SUM) | (k == 1)
    index = np.where(fits, np.abs(counts / k - wanted), np.inf).argmin(axis=1)
    return Requantization(k[index], counts[np.arange(len(k[index])), index].astype(np.int64), scale / k[index])


def _reach(integers: Array, before: Affine) -> tuple[Array, Array]:
    """Smallest and largest sum [out] that codes of the input can give."""
    low, high = -before.zero_point, before.largest - before.zero_point
    ends = np.stack([integers * low, integers * high])
    return ends.min(axis=0).sum(axis=1), ends.max(axis=0).sum(axis=1)


def _between(thresholds: Array, lowest: Array, highest: Array) -> tuple[Array, Array]:
    """Between which numbers [out, i] each threshold may lie, given the sums that occur."""
    floor = np.floor(thresholds)
    lowest, highest = lowest[:, None], highest[:, None]
    never, always = floor >= highest, floor + 1 <= lowest
    below = np.where(always, -np.inf, np.where(never, highest, floor))
    above = np.where(never, np.inf, np.where(always, lowest, floor + 1))
    return below, above


def _interval(below: Array, above: Array, middles: Array, beta: Array) -> tuple[Array, Array]:
    """Smallest and largest sigma, [out, k] each."""
    low, high = np.zeros_like(beta), np.full_like(beta, np.inf)
    for i, middle in enumerate(middles):
        ends = (below[:, i : i + 1] + beta) / middle, (above[:, i : i + 1] + beta) / middle
        smaller, larger = ends if middle > 0 else ends[::-1]
        low, high = np.maximum(low, smaller), np.minimum(high, larger)
    return low, high


def _inside(low: Array, high: Array, exact: Array) -> Array:
    """The middle of an interval; beside its only end where it is open; the exact value at best."""
    middle = np.where(np.isinf(high), np.maximum(low * 2, exact), (low + high) / 2)
    return np.where(middle > 0, middle, exact)
