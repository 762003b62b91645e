"""Small integers as a dense stream of bits.

Value i takes the bits ``[i*bits, (i+1)*bits)`` of the stream, its lowest bit first; bit k of the
stream is bit ``k % 8`` of byte ``k // 8``. So 4-bit values lie two in a byte, the first in the low
half, and 8 values of 3 bits fill 3 bytes. Bits behind the last value are 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hast_cuda.checks import tensors as _checks

_GROUP = 8  # so many values of b bits fill b bytes, which fit one 64-bit word


def packed_size(count: int, bits: int) -> int:
    """Bytes of ``count`` packed values, ``ceil(count * bits / 8)``."""
    return -(-count * bits // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes of any shape, in their order in memory, to uint8 [ceil(n * bits / 8)].

    Args:
        codes: integers from 0 to ``2^bits - 1``.
        bits: 2 to 8.

    Raises:
        TypeError: codes that are no integers, bits that are no int. ValueError: a code or bits out
            of range.
    """
    _checks.bit_width("bits", bits)
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise TypeError(f"codes has dtype {codes.dtype}; expected integers, e.g. torch.uint8")
    flat = codes.flatten()
    count = flat.numel()
    if count and (int(flat.min()) < 0 or int(flat.max()) >= 2**bits):
        raise ValueError(
            f"codes range from {int(flat.min())} to {int(flat.max())}; allowed with bits={bits}: "
            f"0 to {2**bits - 1}"
        )
    groups = -(-count // _GROUP)
    padded = flat.new_zeros(groups * _GROUP)
    padded[:count] = flat
    columns = padded.reshape(groups, _GROUP)
    words = torch.zeros(groups, dtype=torch.int64, device=codes.device)
    for place in range(_GROUP):
        words |= columns[:, place].long() << (place * bits)
    packed = [(words >> (8 * byte)).bitwise_and_(255).to(torch.uint8) for byte in range(bits)]
    return torch.stack(packed, dim=1).flatten()[: packed_size(count, bits)].clone()


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The codes of :func:`pack`, uint8 [count].

    Args:
        packed: uint8 [ceil(count * bits / 8)].
        bits: 2 to 8.
        count: number of values.

    Raises:
        TypeError: wrong dtype. ValueError: a length that does not fit, bits behind the last value.
    """
    _checks.bit_width("bits", bits)
    if packed.dtype != torch.uint8:
        raise TypeError(f"packed has dtype {packed.dtype}; expected torch.uint8")
    if count < 0 or packed.shape != (packed_size(count, bits),):
        raise ValueError(
            f"packed has shape {tuple(packed.shape)}; count={count} values of bits={bits} take "
            f"({packed_size(count, bits)},)"
        )
    groups = -(-count // _GROUP)
    padded = packed.new_zeros(groups * bits)
    padded[: packed.numel()] = packed
    columns = padded.reshape(groups, bits)
    words = torch.zeros(groups, dtype=torch.int64, device=packed.device)
    for byte in range(bits):
        words |= columns[:, byte].long() << (8 * byte)
    mask = 2**bits - 1
    values = [(words >> (place * bits)).bitwise_and_(mask).byte() for place in range(_GROUP)]
    codes = torch.stack(values, dim=1).flatten()
    if bool(codes[count:].any()):
        message = f"packed has bits behind its last value, number {count - 1}: it is corrupt"
        raise ValueError(message)
    return codes[:count].clone()
