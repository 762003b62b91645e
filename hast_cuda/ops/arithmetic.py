"""What the eager references share: dtypes, broadcasting and the grid of Eq. 1."""

from __future__ import annotations

import torch
from torch import Tensor

RANGE_FLOOR = 1e-8  # a constant tensor has a range of 0; the floor keeps the scale finite


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 computes in float64, everything else in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def broadcast(value: Tensor, x: Tensor, channel_axis: int | None) -> Tensor:
    """Reshape a per-channel vector so that it broadcasts along ``channel_axis`` of ``x``."""
    if channel_axis is None:
        return value.reshape(())
    shape = [1] * x.dim()
    shape[channel_axis] = -1
    return value.reshape(shape)


def quantizer_parameters(
    lower: Tensor, upper: Tensor, bits: int, *, real_zero_point: bool = False
) -> tuple[Tensor, Tensor]:
    """Scale ``S = (2^n - 1) / (u - l)`` and zero point ``z = S*l + 2^(n-1)`` of Eq. 1."""
    scale = (2**bits - 1) / (upper - lower).clamp(min=RANGE_FLOOR)
    zero = scale * lower
    if not real_zero_point:
        zero = torch.round(zero)  # an integer zero point represents the real 0 exactly
    return scale, zero + 2 ** (bits - 1)


def quantize_integers(
    x: Tensor,
    lower: Tensor,
    upper: Tensor,
    bits: int,
    channel_axis: int | None = None,
    *,
    real_zero_point: bool = False,
) -> Tensor:
    """Integer codes ``clamp(round(S*x - z), -2^(n-1), 2^(n-1) - 1)`` of Eq. 1, as floats."""
    scale, zero = quantizer_parameters(lower, upper, bits, real_zero_point=real_zero_point)
    return integers(x, broadcast(scale, x, channel_axis), broadcast(zero, x, channel_axis), bits)


def integers(x: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """:func:`quantize_integers` of scales and zero points that broadcast along ``x``."""
    return torch.round(scale * x - zero).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
