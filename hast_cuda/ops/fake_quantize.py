"""Fake quantization on a given range (Eq. 1-2) with straight-through gradients."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hast_cuda.checks import tensors as _checks
from hast_cuda.checks.values import check_number
from hast_cuda.ops import _autograd, _layout
from hast_cuda.ops._registry import core, launch, like_x, operator, pointer
from hast_cuda.ops.activations import CODES, activate, activation_code
from hast_cuda.ops.arithmetic import arithmetic_dtype, broadcast, integers, quantizer_parameters


def fake_quantize_reference(
    x: Tensor,
    lower: Tensor,
    upper: Tensor,
    bits: int,
    channel_axis: int | None = None,
    *,
    real_zero_point: bool = False,
    activation: str | None = None,
) -> Tensor:
    """``(q + z) / S`` of Eq. 2, rounded to the dtype of ``x``."""
    y = activate(x.to(arithmetic_dtype(x.dtype)), activation)
    scale, zero = (
        broadcast(value, x, channel_axis)
        for value in quantizer_parameters(lower, upper, bits, real_zero_point=real_zero_point)
    )
    return ((integers(y, scale, zero, bits) + zero) / scale).to(x.dtype)


def fake_quantize_backward_reference(
    grad: Tensor,
    x: Tensor,
    lower: Tensor,
    upper: Tensor,
    bits: int,
    channel_axis: int | None = None,
    *,
    real_zero_point: bool = False,
    activation: str | None = None,
    clipped: bool = False,
) -> Tensor:
    """Straight-through gradient: ``grad`` where the activation (and a clipped grid) passes."""
    passes = torch.ones_like(x, dtype=torch.bool)
    if activation is not None:
        passes = x > 0
        if activation == "relu6":
            passes &= x < 6
    if clipped:
        y = activate(x.to(arithmetic_dtype(x.dtype)), activation)
        scale, zero = quantizer_parameters(lower, upper, bits, real_zero_point=real_zero_point)
        codes = torch.round(broadcast(scale, x, channel_axis) * y - broadcast(zero, x, channel_axis))
        passes &= (codes >= -(2 ** (bits - 1))) & (codes <= 2 ** (bits - 1) - 1)
    return torch.where(passes, grad, torch.zeros((), dtype=grad.dtype, device=grad.device))


@operator(fake_quantize_reference, like_x)
def _fake_quantize(
    x: Tensor,
    lower: Tensor,
    upper: Tensor,
    bits: int,
    channel_axis: int | None,
    real_zero_point: bool,
    activation: str | None,
) -> Tensor:
    x = _layout.dense(x)
    y = torch.empty_like(x)
    core.fake_quantize(
        x=pointer(x),
        y=pointer(y),
        lower=pointer(lower),
        upper=pointer(upper),
        bits=bits,
        real_zero_point=real_zero_point,
        activation=CODES[activation],
        **_layout.extents(x, channel_axis),
        **launch(x),
    )
    return y


@operator(fake_quantize_backward_reference, like_x)
def _fake_quantize_backward(
    grad: Tensor,
    x: Tensor,
    lower: Tensor,
    upper: Tensor,
    bits: int,
    channel_axis: int | None,
    real_zero_point: bool,
    activation: str | None,
    clipped: bool,
) -> Tensor:
    x = _layout.dense(x)
    dy = _layout.like(grad.to(x.dtype), x)
    dx = torch.empty_like(x)
    core.fake_quantize_backward(
        x=pointer(x),
        dy=pointer(dy),
        dx=pointer(dx),
        lower=pointer(lower),
        upper=pointer(upper),
        bits=bits,
        real_zero_point=real_zero_point,
        activation=CODES[activation],
        clipped=clipped,
        **_layout.extents(x, channel_axis),
        **launch(x),
    )
    return dx


@_autograd.once
def _masked(ctx: Any, grad: Tensor) -> tuple[Tensor]:
    return (_fake_quantize_backward(grad, *ctx.saved_tensors, *ctx.settings),)


class FakeQuantizeFunction(torch.autograd.Function):
    """Straight-through estimator: nothing is saved unless an activation or clipping masks it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lower: Tensor, upper: Tensor, *settings: Any) -> Tensor:
        """Quantize; remember x (and the range) only where the gradient needs a mask."""
        bits, channel_axis, real_zero_point, activation, clipped = settings
        if True in ctx.needs_input_grad:
            ctx.settings, ctx.masked = settings, clipped or activation is not None
            if ctx.masked:
                ctx.save_for_backward(x, lower, upper)
        return _fake_quantize(x, lower, upper, bits, channel_axis, real_zero_point, activation)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Pass the gradient through, masked if there is a mask."""
        (grad,) = grads
        if ctx.masked:
            (grad,) = _masked(ctx, grad)
        return grad, None, None, None, None, None, None, None


def as_range(name: str, value: Tensor | float, x: Tensor, channels: int) -> Tensor:
    """One bound of the range as ``channels`` values in the arithmetic dtype of ``x``."""
    dtype = arithmetic_dtype(x.dtype)
    if not isinstance(value, Tensor):
        check_number(name, value)
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite; found NaN or infinity")
        if torch.finfo(dtype).max < abs(value):
            raise ValueError(f"{name} is {value}, and the range is {dtype}: too large")
        return torch.full((channels,), float(value), dtype=dtype, device=x.device)
    _checks.tensor(name, value)
    if value.dtype == torch.bool or value.dtype.is_complex:
        raise TypeError(f"{name} has dtype {value.dtype}; allowed: numbers, e.g. {dtype}")
    _checks.same_device(name, value, "x", x)
    if value.numel() != channels:
        raise ValueError(
            f"{name} has {value.numel()} values; expected {channels} "
            "(one per channel of channel_axis, or one for the whole tensor)"
        )
    return value.detach().to(dtype).reshape(channels).contiguous()


def fake_quantize(
    x: Tensor,
    lower: Tensor | float,
    upper: Tensor | float,
    bits: int,
    channel_axis: int | None = None,
    *,
    zero_point: str = "integer",
    ste: str = "identity",
    activation: str | None = None,
) -> Tensor:
    """Quantize and dequantize: ``x' = (q + z) / S``, ``q = clamp(round(S*x - z))`` (Eq. 1-2).

    Args:
        x: float32, float16, bfloat16 or float64 tensor of any shape.
        lower: lower end of the range, a number, [1] or [C]; values of CUDA ranges are not checked.
        upper: upper end of the range, like ``lower``.
        bits: 2 to 8.
        channel_axis: axis with one range per channel; None for one range for the whole tensor.
        zero_point: "integer" keeps the real 0 exact (as released); "real" is Eq. 1 literally.
        ste: "identity" passes the gradient everywhere (as released); "clipped" only in the range.
        activation: None, "relu" or "relu6", applied to ``x`` first in the same pass.

    Returns:
        Tensor like ``x``. Arithmetic is float32 (float64 for float64), bit-equal to the eager
        formula.

    Raises:
        TypeError: wrong dtype or type.
        ValueError: bits, range, shape, device or choice out of what is allowed.

    Example:
        >>> import hast_cuda as hc
        >>> x, scale = torch.randn(1000), 15 / 4.0  # equivalent to Eq. 1-2 in plain torch:
        >>> zero = torch.round(torch.tensor(scale * -2.0)) + 8
        >>> codes = torch.clamp(torch.round(scale * x - zero), -8, 7)
        >>> torch.allclose(hc.fake_quantize(x, -2.0, 2.0, 4), (codes + zero) / scale)
        True
    """
    _checks.floating("x", x)
    _checks.bit_width("bits", bits)
    _checks.choice("zero_point", zero_point, _checks.ZERO_POINTS)
    _checks.choice("ste", ste, _checks.STE)
    activation_code(activation)
    axis = _checks.channel_axis(x, channel_axis)
    channels = 1 if axis is None else x.shape[axis]
    low, high = as_range("lower", lower, x, channels), as_range("upper", upper, x, channels)
    _checks.ordered_range(low, high)
    settings = bits, axis, zero_point == "real", activation, ste == "clipped"
    y: Tensor = _autograd.apply(FakeQuantizeFunction, x, low, high, *settings)
    return y
