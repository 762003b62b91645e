"""What the BatchNorm ops share: the normalization itself and the checks of its arguments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hast_cuda.checks import tensors as _checks
from hast_cuda.ops.arithmetic import arithmetic_dtype, broadcast


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
    dtype = arithmetic_dtype(x.dtype)
    named = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    return [_parameter(name, value, x, dtype) for name, value in named.items()]


def _parameter(name: str, value: Any, x: Tensor, dtype: torch.dtype) -> Tensor | None:
    if value is None and name in ("weight", "bias"):
        return None
    _checks.floating(name, value)
    _checks.same_device(name, value, "x", x)
    if value.shape != (x.shape[1],):
        raise ValueError(f"{name} has shape {tuple(value.shape)}; expected ({x.shape[1]},) as x.shape[1]")
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
