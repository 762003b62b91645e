"""What the BatchNorm ops share: the normalization itself and the checks of its arguments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from hast_cuda.checks import tensors as _checks
from hast_cuda.ops.arithmetic import arithmetic_dtype, broadcast

_PLAIN = (Tensor, torch.nn.Parameter)
_NAMES = ("running_mean", "running_var", "weight", "bias")


def affine(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Eval-mode BatchNorm ``weight*(x - running_mean)/sqrt(running_var + eps) + bias``."""
    scale = torch.rsqrt(running_var + eps)
    if weight is not None:
        scale = scale * weight
    y = (x - broadcast(running_mean, x, 1)) * broadcast(scale, x, 1)
    return y if bias is None else y + broadcast(bias, x, 1)


def parameters(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None, bias: Tensor | None
) -> list[Tensor | None]:
    """The four vectors [C] in the arithmetic dtype of ``x``; errors name the one that is wrong."""
    if x.dim() < 2 or x.numel() == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}; expected [N, C, ...] with at least one element")
    shape, dtype, device = (x.shape[1],), arithmetic_dtype(x.dtype), x.device
    size = 1 if is_compiling() else dtype.itemsize  # a trace has no addresses
    ready: list[Tensor | None] = []
    value: Any
    for name, value in zip(_NAMES, (running_mean, running_var, weight, bias), strict=True):
        # All that _parameter() asks, in a fifth of the time: there are four of them in every call.
        usual = (
            type(value) in _PLAIN
            and value.layout is torch.strided
            and value.dtype is dtype
            and value.device == device
            and value.shape == shape
            and value.is_contiguous()
            and (size == 1 or not value.data_ptr() % size)
        )
        absent = value is None and name in ("weight", "bias")
        ready.append(value if usual or absent else _parameter(name, value, x, shape, dtype))
    return ready


def _parameter(name: str, value: Any, x: Tensor, shape: tuple[int], dtype: torch.dtype) -> Tensor:
    _checks.floating(name, value)
    _checks.same_device(name, value, "x", x)
    if value.shape != shape:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; expected ({shape[0]},) as x.shape[1]")
    ready: Tensor = value.to(dtype).contiguous()
    return ready


def check_alike(name: str, t: Tensor | None, x: Tensor) -> None:
    """``t``, if there is one, has the shape, dtype and device of ``x``."""
    if t is None:
        return
    _checks.floating(name, t)
    _checks.same_device(name, t, "x", x)
    if t.shape != x.shape or t.dtype != x.dtype:
        raise ValueError(f"{name} is {tuple(t.shape)} {t.dtype}; expected {tuple(x.shape)} {x.dtype} like x")
