"""Eager twins of the quantizers (Eq. 1-2) and of range tracking."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

RANGE_FLOOR = 1e-8  # a constant tensor has a range of 0; the floor keeps the scale finite


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 computes in float64, everything else in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def activate(x: Tensor, activation: str | None) -> Tensor:
    """The activation fused in front of a quantizer: ``None``, ``"relu"`` or ``"relu6"``."""
    if activation is None:
        return x
    return F.relu(x) if activation == "relu" else F.relu6(x)


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
    x: Tensor, lower: Tensor, upper: Tensor, bits: int, channel_axis: int | None = None,
    *, real_zero_point: bool = False,
) -> Tensor:  # fmt: skip
    """Integer codes ``clamp(round(S*x - z), -2^(n-1), 2^(n-1) - 1)`` of Eq. 1, as floats."""
    scale, zero = quantizer_parameters(lower, upper, bits, real_zero_point=real_zero_point)
    return _codes(x, broadcast(scale, x, channel_axis), broadcast(zero, x, channel_axis), bits)


def _codes(x: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    return torch.round(scale * x - zero).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def fake_quantize(
    x: Tensor, lower: Tensor, upper: Tensor, bits: int, channel_axis: int | None = None,
    *, real_zero_point: bool = False, activation: str | None = None,
) -> Tensor:  # fmt: skip
    """``(q + z) / S`` of Eq. 2, rounded to the dtype of ``x``."""
    y = activate(x.to(arithmetic_dtype(x.dtype)), activation)
    scale, zero = (
        broadcast(value, x, channel_axis)
        for value in quantizer_parameters(lower, upper, bits, real_zero_point=real_zero_point)
    )
    return ((_codes(y, scale, zero, bits) + zero) / scale).to(x.dtype)


def fake_quantize_backward(
    grad: Tensor, x: Tensor, lower: Tensor, upper: Tensor, bits: int,
    channel_axis: int | None = None, *, real_zero_point: bool = False,
    activation: str | None = None, clipped: bool = False,
) -> Tensor:  # fmt: skip
    """Straight-through gradient: ``grad`` where the activation (and a clipped grid) passes."""
    passes = torch.ones_like(x, dtype=torch.bool)
    if activation is not None:
        passes = x > 0
        if activation == "relu6":
            passes &= x < 6
    if clipped:
        y = activate(x.to(arithmetic_dtype(x.dtype)), activation)
        scale, zero = quantizer_parameters(lower, upper, bits, real_zero_point=real_zero_point)
        codes = torch.round(
            broadcast(scale, x, channel_axis) * y - broadcast(zero, x, channel_axis)
        )
        passes &= (codes >= -(2 ** (bits - 1))) & (codes <= 2 ** (bits - 1) - 1)
    return torch.where(passes, grad, torch.zeros((), dtype=grad.dtype, device=grad.device))


def fake_quantize_weights(
    weights: Sequence[Tensor], bits: Sequence[int], *, real_zero_point: bool = False,
    ranges: Sequence[Tensor | None] | None = None,
) -> list[Tensor]:  # fmt: skip
    """Every weight on its range [2, out], or on the minimum and maximum of each output channel."""
    outputs = []
    for weight, width, ends in zip(weights, bits, ranges or [None] * len(weights), strict=True):
        if weight.numel() == 0:
            outputs.append(torch.empty_like(weight))
            continue
        rows = weight.to(arithmetic_dtype(weight.dtype)).reshape(weight.shape[0], -1)
        lower, upper = rows.aminmax(dim=1) if ends is None else ends
        outputs.append(
            fake_quantize(weight, lower, upper, width, 0, real_zero_point=real_zero_point)
        )
    return outputs


def update_range(
    x: Tensor, state: Tensor, *, activation: str | None = None, beta: float = 0.9,
    released: bool = False,
) -> None:  # fmt: skip
    """One step of the moving average of (min, max); ``state`` is [lower, upper, m_l, m_u, beta^t].

    Corrected form: ``m = beta*m + (1-beta)*v``, range ``m / (1 - beta^t)``. The ``released`` form
    feeds the corrected value back, ``r = (beta*r + (1-beta)*v) / (1 - beta^t)``, as published.
    """
    if x.numel() == 0:
        return
    extremes = torch.stack(torch.aminmax(activate(x.to(arithmetic_dtype(x.dtype)), activation)))
    power = state[4] * beta
    previous = state[0:2] if released else state[2:4]
    average = previous * beta + extremes * (1 - beta)
    corrected = average / (1 - power)
    state[0:2] = corrected
    state[2:4] = corrected if released else average
    state[4] = power
