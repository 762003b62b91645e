"""The integers of operators that round their sums to codes themselves: weights, biases and scales."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hast_cuda.exports.dequantized import LARGEST_INT8
from hast_cuda.exports.editing import Array
from hast_cuda.exports.folded import Layer
from hast_cuda.exports.grid import Affine
from hast_cuda.exports.requantize import exact_requantization, nearest_requantization

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
