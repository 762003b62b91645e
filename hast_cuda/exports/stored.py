"""How a layer's weight is written into a file: integers, scale, and a zero point where needed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hast_cuda.exports.editing import Array
from hast_cuda.exports.folded import Layer

LARGEST_INT8 = 127


@dataclass(frozen=True)
class StoredWeight:
    """``weight = scale * (integers - zero_point) + offset`` per output channel."""

    integers: Array
    """int8, uint8 or uint4, shape of the weight."""
    scale: Array
    """float32 [out]."""
    zero_point: Array | None
    """[out] in the type of the integers; None for 0."""
    offset: Array | None = None
    """float32 [out]: for channels whose range lies far from 0; None for 0."""


def signed_codes(layer: Layer) -> tuple[Array, Array]:
    """Integers with zero point 0 (int64) and their scale (float64 [out]), BatchNorm taken in."""
    grid = layer.codes.grid
    centred = layer.codes.codes.long().numpy() - _column(grid.zero_point.numpy(), layer)
    sign = np.where(layer.multiplier < 0, -1, 1)
    return centred * _column(sign, layer), grid.step.double().numpy() * np.abs(layer.multiplier)


def as_int8(layer: Layer) -> StoredWeight:
    """int8 with zero point 0; where the codes do not fit, uint8 codes and an offset."""
    integers, scale = signed_codes(layer)
    if np.abs(integers).max(initial=0) <= LARGEST_INT8:
        return StoredWeight(integers.astype(np.int8), scale.astype(np.float32), None)
    return _with_offset(layer, np.dtype(np.uint8))


def as_codes(layer: Layer, kind: np.dtype[np.generic]) -> StoredWeight:
    """Unsigned codes with zero points in ``kind``; an offset where a range does not contain 0."""
    if not bool(layer.codes.grid.contains_zero.all()):
        return _with_offset(layer, kind)
    codes, zero_point, scale = flipped(layer)
    return StoredWeight(codes.astype(kind), scale.astype(np.float32), zero_point.astype(kind))


def flipped(layer: Layer) -> tuple[Array, Array, Array]:
    """Codes, zero points and positive scales: a negative multiplier mirrors a channel's codes."""
    grid = layer.codes.grid
    largest = 2**grid.bits - 1
    negative = layer.multiplier < 0
    codes, zero_point = layer.codes.codes.long().numpy(), grid.zero_point.numpy()
    codes = np.where(_column(negative, layer), largest - codes, codes)
    zero_point = np.where(negative, largest - zero_point, zero_point)
    return codes, zero_point, grid.step.double().numpy() * np.abs(layer.multiplier)


def _with_offset(layer: Layer, kind: np.dtype[np.generic]) -> StoredWeight:
    codes, zero_point, scale = flipped(layer)
    offset = -scale * zero_point
    return StoredWeight(
        codes.astype(kind), scale.astype(np.float32), None, offset.astype(np.float32)
    )


def _column(values: Array, layer: Layer) -> Array:
    """[out] as [out, 1, ...]."""
    return values.reshape(-1, *[1] * (layer.codes.codes.dim() - 1))
