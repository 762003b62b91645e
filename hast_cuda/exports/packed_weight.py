"""A quantized weight as packed tensors, and the weight again, bit by bit.

Value i takes the bits ``[i*bits, (i+1)*bits)`` of a stream, its lowest bit first; bit k of the
stream is bit ``k % 8`` of byte ``k // 8``. So 4-bit values lie two in a byte, the first in the low
half, and 8 values of 3 bits fill 3 bytes. Bits behind the last value are 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from hast_cuda.exports.grid import Grid, grid_of, values_of, weight_codes
from hast_cuda.exports.placement import DTYPES, LayerRecord, key, own_keys
from hast_cuda.nn.quantized_weight import QuantizedWeight
from hast_cuda.ops import fake_quantize
from hast_cuda.ops.reference import arithmetic_dtype, quantizer_parameters

PARTS = ("qweight", "scale", "zero_point", "range", "lookup")
_GRID = 16  # bytes per output channel: scale, zero point, range
_SMALL, _LARGEST = 2**31 - 1, 2.0**62


def packed_size(count: int, bits: int) -> int:
    """Bytes of ``count`` packed values, ``ceil(count * bits / 8)``."""
    return -(-count * bits // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """uint8 codes of any shape, each below ``2^bits``, in the order of that shape."""
    stream = np.unpackbits(codes.reshape(-1, 1).numpy(), axis=1, count=bits, bitorder="little")
    return torch.from_numpy(np.packbits(stream, bitorder="little"))


def unpack(packed: Tensor, bits: int, count: int, name: str = "") -> Tensor:
    """The codes of :func:`pack`, uint8 [count]; ValueError for bits behind the last."""
    stream = np.unpackbits(packed.numpy(), bitorder="little")
    if stream[count * bits :].any():
        raise ValueError(f"tensor {name!r} has bits behind its last value: it is corrupt")
    codes = np.packbits(stream[: count * bits].reshape(count, bits), axis=1, bitorder="little")
    return torch.from_numpy(codes.reshape(-1))


def packed_bytes(student: nn.Module) -> int:
    """About what a file of the network takes: its weights packed, with their grids, the rest as it is."""
    packed = {id(m.weight): (m.weight, m.weight_bits) for m in student.modules() if isinstance(m, QuantizedWeight)}
    own = own_keys(student)
    rest = {id(t): t for name, t in student.state_dict(keep_vars=True).items() if name not in own}
    found: int = sum(packed_size(w.numel(), bits) + _GRID * len(w) for w, bits in packed.values())
    found += sum(t.numel() * t.element_size() for t in rest.values())
    return found


@torch.no_grad()
def packed_weight(layer: QuantizedWeight, name: str) -> dict[str, Tensor]:
    """Tensors of ``layer``'s weight by their part of the name.

    ``qweight`` uint8, as above; per output channel ``scale`` (1/S),
    ``zero_point`` (int32; int64 where one is larger) and ``range`` [2, out] (l and u of Eq. 1). The
    layer quantizes ``(q + z) / S`` once more on loading. On grids too fine for the weight's dtype
    that is another value: then ``lookup`` [out, 2^bits] has, for each code, a weight that has it.

    Raises:
        ValueError: as :func:`hast_cuda.exports.grid.weight_codes`; values, zero points too large.
    """
    found = weight_codes(layer, name)
    codes, grid = found.codes, found.grid
    values = values_of(codes, grid).to(layer.weight.dtype)
    lower, upper = grid.bounds.unbind()
    _, zero = quantizer_parameters(lower, upper, grid.bits)
    if not bool(torch.isfinite(values).all()) or bool((zero.abs() > _LARGEST).any()):
        raise ValueError(
            f"the weights of layer {name!r} are too large, or too far from 0 for their spread, to "
            "be stored as integers: keep this layer in full precision (hast_cuda.Override())"
        )
    small = bool((grid.zero_point.abs() <= _SMALL).all())
    parts = {
        "qweight": pack(codes, grid.bits),
        "scale": grid.step,
        "zero_point": grid.zero_point.to(torch.int32) if small else grid.zero_point,
        "range": grid.bounds,
    }
    if not torch.equal(_quantized(values, grid), values):
        parts["lookup"] = _lookup(layer.weight.detach().cpu(), codes, grid.bits)
    return {part: tensor.contiguous() for part, tensor in parts.items()}


@torch.no_grad()
def unpacked_weight(tensors: Mapping[str, Tensor], name: str, record: LayerRecord) -> tuple[Tensor, Tensor]:
    """A weight that is quantized to the packed one on its grid, and the grid's range [2, out].

    ``record`` has the shape of a layer that exists. ValueError for tensors that are missing, of
    another shape, or do not fit one another.
    """
    dtype, channels, count = DTYPES[record.dtype], record.shape[0], math.prod(record.shape)
    arithmetic = arithmetic_dtype(dtype)

    def part(which: str, shape: tuple[int, ...], *dtypes: torch.dtype) -> Tensor:
        found = tensors.get(key(name, which))
        if found is None or found.shape != shape or found.dtype not in dtypes:
            what = "missing" if found is None else f"{found.dtype} {tuple(found.shape)}"
            raise ValueError(f"tensor {key(name, which)!r} is {what}; expected {dtypes[0]} {shape}")
        return found

    bounds = part("range", (2, channels), arithmetic)
    step = part("scale", (channels,), arithmetic)
    zero_point = part("zero_point", (channels,), torch.int32, torch.int64)
    packed = part("qweight", (packed_size(count, record.bits),), torch.uint8)
    lower, upper = bounds.unbind()
    if not bool((torch.isfinite(bounds) & torch.isfinite(step)).all() & (lower <= upper).all()):
        raise ValueError(f"range or scale of layer {name!r} has NaN, infinity, or lower > upper")
    grid = grid_of(lower, upper, record.bits)
    if not torch.allclose(grid.step, step, rtol=1e-6, atol=0) or not torch.equal(grid.zero_point, zero_point.long()):
        raise ValueError(f"scale and zero_point of layer {name!r} do not fit its range")
    codes = unpack(packed, record.bits, count, key(name, "qweight")).reshape(record.shape)
    weight = values = values_of(codes, grid).to(dtype)
    if key(name, "lookup") in tensors:
        table = part("lookup", (channels, 2**record.bits), dtype)
        weight = table.gather(1, codes.flatten(1).long()).reshape(values.shape)
    if not torch.equal(_quantized(weight, grid), values):
        raise ValueError(f"the weight of layer {name!r} is not on the grid of its range")
    return weight, bounds


def _quantized(weight: Tensor, grid: Grid) -> Tensor:
    """What a layer with this fixed grid computes with."""
    lower, upper = grid.bounds.unbind()
    return fake_quantize(weight, lower, upper, grid.bits, 0)


def _lookup(weight: Tensor, codes: Tensor, bits: int) -> Tensor:
    """For each channel and code the largest weight that has it (0 where none has)."""
    exact = weight.to(arithmetic_dtype(weight.dtype)).flatten(1)
    table = torch.zeros(weight.shape[0], 2**bits, dtype=exact.dtype)
    table.scatter_reduce_(1, codes.flatten(1).long(), exact, "amax", include_self=False)
    return table.to(weight.dtype)
