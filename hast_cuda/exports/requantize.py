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

from hast_cuda.exports.dequantized import LARGEST_INT8
from hast_cuda.exports.editing import Array
from hast_cuda.exports.folded import Layer
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


_LARGEST_PAIR = 32767  # two products must fit 16 bits on processors without VNNI
_LARGEST_BIAS = 2**30
_FAR = "weights far from 0, or tiny beside their bias, are rounded once more"
_LARGEST_CODE = 255
_SAME_BIAS, _FLOAT32 = 1e-3, 2**-21  # of the smallest product, of the bias: what float32 leaves of one that was moved


@dataclass(frozen=True)
class Products:
    """``scale * sum(weights * codes)`` plus ``bias``, per output channel."""

    name: str
    integers: Array  # int64 [out, ...], zero point 0
    scale: Array  # float64 [out], 0 where a channel is constant
    bias: Array  # float64 [out]
    bias_name: str
    """The network's parameter that the bias moves with; empty: none does."""

    @classmethod
    def of(cls, layer: Layer) -> Products:
        """Those of a layer, with the BatchNorm behind it."""
        integers, scale = layer.signed_codes()
        bias = np.zeros(len(scale)) if layer.bias is None else layer.bias
        return cls(layer.name, integers, scale, bias, layer.bias_name)


@dataclass(frozen=True)
class Requantized:
    """What goes into a ``QLinearConv``."""

    weights: Array  # int8 or uint8, in the shape of the integers
    zero_point: Array  # [out], of the same dtype
    scale: Array  # float32 [out]
    bias: Array  # int32 [out]
    rounding: str = ""
    """Why a sum may get another code than in the student; empty: none does."""
    moved: Array | None = None
    """float64 [out]: what the bias would have to be more for that; None: nothing helps, or is needed."""


def requantized(
    products: Products, before: Affine, after: Affine, first: int, last: int, *, exact: bool
) -> Requantized | None:
    """The operator from codes of ``before`` to codes of ``after``, clipped to [first, last] behind it.

    ``exact``: None where some sum would get another code; otherwise the nearest parameters.
    """
    integers = products.integers
    rows, scale = integers.reshape(len(integers), -1), products.scale
    # Channels that BatchNorm or their weights make constant: any scale will do.
    dead = (np.abs(rows).max(axis=1, initial=0) == 0) | (scale == 0)
    rows, scale = rows * ~dead[:, None], np.where(dead, after.step / before.step, scale)
    rows, scale, far = _coarser(rows, scale, products.bias / before.step)
    if exact and far:
        return None
    wide = bool(np.abs(rows).max(initial=0) > LARGEST_INT8)  # with zero points, unmultiplied
    pairs = _LARGEST_PAIR // (2 * before.largest)
    largest, ends = 0 if wide else min(LARGEST_INT8, pairs), {"first": first, "last": last}
    found = exact_requantization(rows, scale, products.bias, before, after, largest=largest, **ends)
    rounding, moved = _FAR if far else "", None
    if found is None:
        if exact:
            return None
        found = nearest_requantization(rows, scale, products.bias, before, largest=largest)
        unit = before.step * found.scale
        by = found.bias * unit - products.bias
        if (np.abs(by) > _SAME_BIAS * unit + _FLOAT32 * np.abs(products.bias)).any():
            rounding, moved = rounding or "its bias is rounded", by
    multiplied = (rows * found.multiplier[:, None]).reshape(integers.shape)
    if not wide and np.abs(multiplied).max(initial=0) <= pairs:
        weights, zero_point = multiplied.astype(np.int8), np.zeros(len(rows), np.int8)
    else:
        weights, zero_point = unsigned(multiplied)
        zero_point = np.broadcast_to(zero_point, len(rows)).copy()
    bias = found.bias.astype(np.int32)
    return Requantized(weights, zero_point, found.scale.astype(np.float32), bias, rounding, moved)


def unsigned(integers: Array) -> tuple[Array, Array]:
    """Integers [out, ...] as uint8 and their zero point: 128 where that fits all, else one per channel."""
    if np.abs(integers).max(initial=0) <= LARGEST_INT8:
        return (integers + 128).astype(np.uint8), np.asarray(128, np.uint8)
    rows = integers.reshape(len(integers), -1)
    zero_point = -rows.min(axis=1, initial=0)
    shifted = (rows + zero_point[:, None]).reshape(integers.shape)
    return shifted.astype(np.uint8), zero_point.astype(np.uint8)


def _coarser(rows: Array, scale: Array, bias: Array) -> tuple[Array, Array, bool]:
    """Rows of which each, and 0, fits a byte with some zero point, and whose bias fits int32; whether any was rounded.

    ``bias`` is in units of ``scale`` times codes.
    """
    span = rows.max(axis=1, initial=0) - rows.min(axis=1, initial=0)
    factor = np.maximum(1.0, np.maximum(span / _LARGEST_CODE, np.abs(bias) / scale / _LARGEST_BIAS))
    return np.rint(rows / factor[:, None]).astype(np.int64), scale * factor, bool((factor > 1).any())
