"""Fake quantization on a given range (Eq. 1-2) with straight-through gradients."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hast_cuda.checks import tensors as _checks
from hast_cuda.checks.values import check_number
from hast_cuda.ops import _layout, reference
from hast_cuda.ops._registry import DTYPES, core, device_and_stream, pointer, register
from hast_cuda.ops.activations import ACTIVATION_NAMES, activation_code


def _forward(
    x: Tensor, lower: Tensor, upper: Tensor, bits: int, axis: int | None, real: bool, act: int
) -> Tensor:
    x = _layout.dense(x)
    y = torch.empty_like(x)
    core.fake_quantize(
        pointer(x), pointer(y), pointer(lower), pointer(upper), DTYPES[x.dtype],
        *_layout.extents(x, axis), bits, real, act, *device_and_stream(x),
    )  # fmt: skip
    return y


def _forward_reference(
    x: Tensor, lower: Tensor, upper: Tensor, bits: int, axis: int | None, real: bool, act: int
) -> Tensor:
    return reference.fake_quantize(
        x, lower, upper, bits, axis, real_zero_point=real, activation=ACTIVATION_NAMES[act]
    )


def _backward(
    grad: Tensor, x: Tensor, lower: Tensor, upper: Tensor, bits: int, axis: int | None,
    real: bool, act: int, clipped: bool,
) -> Tensor:  # fmt: skip
    x = _layout.dense(x)
    grad = _layout.like(grad.to(x.dtype), x)
    dx = torch.empty_like(x)
    core.fake_quantize_backward(
        pointer(x), pointer(grad), pointer(dx), pointer(lower), pointer(upper), DTYPES[x.dtype],
        *_layout.extents(x, axis), bits, real, act, clipped, *device_and_stream(x),
    )  # fmt: skip
    return dx


def _backward_reference(
    grad: Tensor, x: Tensor, lower: Tensor, upper: Tensor, bits: int, axis: int | None,
    real: bool, act: int, clipped: bool,
) -> Tensor:  # fmt: skip
    return reference.fake_quantize_backward(
        grad, x, lower, upper, bits, axis,
        real_zero_point=real, activation=ACTIVATION_NAMES[act], clipped=clipped,
    )  # fmt: skip


_RANGE = "Tensor lower, Tensor upper, int bits, int? channel_axis, bool real_zero_point"
_fake_quantize = register(
    f"fake_quantize(Tensor x, {_RANGE}, int activation) -> Tensor",
    _forward,
    _forward_reference,
    lambda x, *_: torch.empty_like(x),
)
_fake_quantize_backward = register(
    f"fake_quantize_backward(Tensor grad, Tensor x, {_RANGE}, int activation, bool clipped)"
    " -> Tensor",
    _backward,
    _backward_reference,
    lambda grad, x, *_: torch.empty_like(x),
)


class FakeQuantizeFunction(torch.autograd.Function):
    """Straight-through estimator: nothing is saved unless an activation or clipping masks it."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, lower: Tensor, upper: Tensor, bits: int, axis: int | None,
        real: bool, act: int, clipped: bool,
    ) -> Tensor:  # fmt: skip
        """Quantize; remember x (and the range) only where the gradient needs a mask."""
        ctx.settings = (bits, axis, real, act, clipped)
        if act or clipped:
            ctx.save_for_backward(x, lower, upper)
        y: Tensor = _fake_quantize(x, lower, upper, bits, axis, real, act)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Pass the gradient through, masked if there is a mask."""
        (grad,) = grads
        bits, axis, real, act, clipped = ctx.settings
        if act or clipped:
            x, lower, upper = ctx.saved_tensors
            grad = _fake_quantize_backward(grad, x, lower, upper, bits, axis, real, act, clipped)
        return grad, None, None, None, None, None, None, None


def as_range(name: str, value: Tensor | float, x: Tensor, channels: int) -> Tensor:
    """One bound of the range as ``channels`` values in the arithmetic dtype of ``x``."""
    dtype = reference.arithmetic_dtype(x.dtype)
    if not isinstance(value, Tensor):
        check_number(name, value)
        if not math.isfinite(value):
            message = f"{name} must be finite; found NaN or infinity"
            raise ValueError(message)
        if torch.finfo(dtype).max < abs(value):
            message = f"{name} is {value}, and the range is {dtype}: too large"
            raise ValueError(message)
        return torch.full((channels,), float(value), dtype=dtype, device=x.device)
    _checks.tensor(name, value)
    if value.dtype == torch.bool or value.dtype.is_complex:
        message = f"{name} has dtype {value.dtype}; allowed: numbers, e.g. {dtype}"
        raise TypeError(message)
    _checks.same_device(name, value, "x", x)
    if value.numel() != channels:
        message = (
            f"{name} has {value.numel()} values; expected {channels} "
            "(one per channel of channel_axis, or one for the whole tensor)"
        )
        raise ValueError(message)
    return value.detach().to(dtype).reshape(channels).contiguous()


def fake_quantize(
    x: Tensor, lower: Tensor | float, upper: Tensor | float, bits: int,
    channel_axis: int | None = None, *, zero_point: str = "integer", ste: str = "identity",
    activation: str | None = None,
) -> Tensor:  # fmt: skip
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
    """
    _checks.floating("x", x)
    _checks.bit_width("bits", bits)
    _checks.choice("zero_point", zero_point, _checks.ZERO_POINTS)
    _checks.choice("ste", ste, _checks.STE)
    code = activation_code(activation)
    axis = _checks.channel_axis(x, channel_axis)
    channels = 1 if axis is None else x.shape[axis]
    low, high = as_range("lower", lower, x, channels), as_range("upper", upper, x, channels)
    _checks.ordered_range(low, high)
    y: Tensor = FakeQuantizeFunction.apply(
        x, low, high, bits, axis, zero_point == "real", code, ste == "clipped"
    )
    return y
