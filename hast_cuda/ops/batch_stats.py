"""BatchNorm in eval mode together with the batch statistics of its input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hast_cuda.ops import _checks, _layout, _workspace, reference
from hast_cuda.ops._registry import (
    ACTIVATION_NAMES,
    DTYPES,
    core,
    device_and_stream,
    pointer,
    register,
)


def _forward(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None,
    bias: Tensor | None, eps: float, act: int, residual: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    x = _layout.dense(x)
    residual = None if residual is None else _layout.like(residual, x)
    shape = _layout.extents(x, 1)
    y, mean, var = torch.empty_like(x), *(torch.empty_like(running_mean) for _ in range(2))
    scratch = _workspace.scratch(x, _workspace.batch_stats_scratch(x, shape), torch.float64)
    core.batch_norm_match(
        pointer(x), pointer(residual), pointer(y), pointer(mean), pointer(var),
        pointer(running_mean), pointer(running_var), pointer(weight), pointer(bias), eps,
        pointer(scratch), _workspace.counters(x, shape[1]), DTYPES[x.dtype], *shape, act,
        *device_and_stream(x),
    )  # fmt: skip
    return y, mean, var


def _forward_reference(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None,
    bias: Tensor | None, eps: float, act: int, residual: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return reference.batch_norm_match(
        x,
        running_mean,
        running_var,
        weight,
        bias,
        eps,
        activation=ACTIVATION_NAMES[act],
        residual=residual,
    )


def _backward(
    dy: Tensor | None, dmean: Tensor | None, dvar: Tensor | None, x: Tensor, y: Tensor | None,
    mean: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None, eps: float,
    act: int, need_residual: bool, need_affine: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    x = _layout.dense(x)
    dy = None if dy is None else _layout.like(dy.to(x.dtype), x)
    y = None if y is None else _layout.like(y, x)
    dmean, dvar = (None if d is None else d.contiguous() for d in (dmean, dvar))
    shape = _layout.extents(x, 1)
    dx = torch.empty_like(x)
    dresidual = torch.empty_like(x) if need_residual else x.new_empty(0)
    dweight, dbias = (mean.new_empty(mean.numel() if need_affine else 0) for _ in range(2))
    scratch = _workspace.scratch(x, _workspace.batch_stats_scratch(x, shape), torch.float64)
    core.batch_norm_match_backward(
        pointer(x), pointer(y), pointer(dy), pointer(dmean), pointer(dvar), pointer(mean),
        pointer(running_mean), pointer(running_var), pointer(weight), eps, pointer(dx),
        pointer(dresidual) if need_residual else 0, pointer(dweight) if need_affine else 0,
        pointer(dbias) if need_affine else 0, pointer(scratch),
        _workspace.counters(x, shape[1]), DTYPES[x.dtype], *shape, act, *device_and_stream(x),
    )  # fmt: skip
    return dx, dresidual, dweight, dbias


def _backward_reference(
    dy: Tensor | None, dmean: Tensor | None, dvar: Tensor | None, x: Tensor, y: Tensor | None,
    mean: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None, eps: float,
    act: int, need_residual: bool, need_affine: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    wide, dims = x.to(mean.dtype), [d for d in range(x.dim()) if d != 1]
    per_channel = x.numel() // x.shape[1]
    gradient = torch.zeros_like(wide) if dy is None else dy.to(mean.dtype)
    if act and y is not None:
        gradient = gradient * ((y > 0) & (y < 6) if ACTIVATION_NAMES[act] == "relu6" else y > 0)
    inverse = torch.rsqrt(running_var + eps)
    scale = inverse if weight is None else inverse * weight
    dx = gradient * reference.broadcast(scale, x, 1)
    if dmean is not None:
        dx = dx + reference.broadcast(dmean / per_channel, x, 1)
    if dvar is not None:
        centred = wide - reference.broadcast(mean, x, 1)
        dx = dx + reference.broadcast(dvar * (2 / per_channel), x, 1) * centred
    dresidual = gradient.to(x.dtype) if need_residual else x.new_empty(0)
    dweight = dbias = mean.new_empty(0)
    if need_affine:
        normalised = (wide - reference.broadcast(running_mean, x, 1)) * reference.broadcast(
            inverse, x, 1
        )
        dweight, dbias = (gradient * normalised).sum(dims), gradient.sum(dims)
    return dx.to(x.dtype), dresidual, dweight, dbias


_batch_norm_match = register(
    "batch_norm_match(Tensor x, Tensor running_mean, Tensor running_var, Tensor? weight,"
    " Tensor? bias, float eps, int activation, Tensor? residual) -> (Tensor, Tensor, Tensor)",
    _forward,
    _forward_reference,
    lambda x, mean, *_: (torch.empty_like(x), torch.empty_like(mean), torch.empty_like(mean)),
)
_batch_norm_match_backward = register(
    "batch_norm_match_backward(Tensor? dy, Tensor? dmean, Tensor? dvar, Tensor x, Tensor? y,"
    " Tensor mean, Tensor running_mean, Tensor running_var, Tensor? weight, float eps,"
    " int activation, bool need_residual, bool need_affine) -> (Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _backward_reference,
    lambda dy, dmean, dvar, x, y, mean, rm, rv, w, eps, act, residual, affine: (
        torch.empty_like(x),
        torch.empty_like(x) if residual else x.new_empty(0),
        mean.new_empty(mean.numel() if affine else 0),
        mean.new_empty(mean.numel() if affine else 0),
    ),
)


class _BatchNormMatch(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None,
        bias: Tensor | None, eps: float, act: int, residual: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        outputs: tuple[Tensor, Tensor, Tensor] = _batch_norm_match(
            x, running_mean, running_var, weight, bias, eps, act, residual
        )
        y, mean, _ = outputs
        # y is saved only for the activation's mask; the next convolution keeps it alive anyway.
        ctx.save_for_backward(x, y if act else None, mean, running_mean, running_var, weight)
        ctx.eps, ctx.act = eps, act
        ctx.affine_dtypes = [None if t is None else t.dtype for t in (weight, bias)]
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, y, mean, running_mean, running_var, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad
        need_residual = needs[7] and grads[0] is not None
        need_affine = (needs[3] or needs[4]) and grads[0] is not None
        dx, dresidual, dweight, dbias = _batch_norm_match_backward(
            *grads, x, y, mean, running_mean, running_var, weight, ctx.eps, ctx.act,
            need_residual, need_affine,
        )  # fmt: skip
        return (
            dx if needs[0] else None, None, None,
            dweight if needs[3] and need_affine else None,
            dbias if needs[4] and need_affine else None,
            None, None, dresidual if need_residual else None,
        )  # fmt: skip


def _statistics(name: str, value: Tensor | None, x: Tensor, dtype: torch.dtype) -> Tensor | None:
    if value is None:
        return None
    _checks.same_device(name, value, "x", x)
    if value.shape != (x.shape[1],):
        message = f"{name} has shape {tuple(value.shape)}; expected ({x.shape[1]},) as x.shape[1]"
        raise ValueError(message)
    return value.to(dtype).contiguous()


def batch_norm_match(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None = None,
    bias: Tensor | None = None, eps: float = 1e-5, *, activation: str | None = None,
    residual: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Eval-mode BatchNorm and, from the same read of ``x``, the batch statistics of Eq. 3.

    ``y = act(weight*(x - running_mean)/sqrt(running_var + eps) + bias + residual)``;
    ``mean_c`` and biased ``var_c`` are taken over every axis but 1.

    Args:
        x: [N, C, ...], contiguous or channels_last; float32, float16, bfloat16 or float64.
        running_mean: [C], and likewise ``running_var``, ``weight`` and ``bias`` (None = 1 and 0).
        eps: added to ``running_var``.
        activation: None, "relu" or "relu6".
        residual: tensor like ``x``, added before the activation.

    Returns:
        (y like ``x``, mean [C], var [C]), statistics in float32 (float64 for float64 ``x``).
        Gradients flow from all three outputs to x, and to weight, bias and residual.

    Raises:
        TypeError: wrong dtype. ValueError: shapes or devices that differ, no elements.
    """
    _checks.floating("x", x)
    code = _checks.activation_code(activation)
    if x.dim() < 2 or x.numel() == 0:
        message = f"x has shape {tuple(x.shape)}; expected [N, C, ...] with at least one element"
        raise ValueError(message)
    if residual is not None:
        _checks.same_device("residual", residual, "x", x)
        if residual.shape != x.shape or residual.dtype != x.dtype:
            message = (
                f"residual is {tuple(residual.shape)} {residual.dtype}; expected "
                f"{tuple(x.shape)} {x.dtype} like x"
            )
            raise ValueError(message)
    dtype = reference.arithmetic_dtype(x.dtype)
    named = {
        "running_mean": running_mean,
        "running_var": running_var,
        "weight": weight,
        "bias": bias,
    }
    ready = [_statistics(name, value, x, dtype) for name, value in named.items()]
    result: tuple[Tensor, Tensor, Tensor] = _BatchNormMatch.apply(x, *ready, eps, code, residual)
    return result
