"""What the BatchNorm ops share: argument checks, and the one op that is the gradient of both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hast_cuda.checks import tensors as _checks
from hast_cuda.ops import _layout, _workspace, reference
from hast_cuda.ops._registry import DTYPES, core, device_and_stream, pointer, register
from hast_cuda.ops.activations import ACTIVATION_NAMES

# What tells the gradient where the activation passed.
NO_GATE, GATE_BY_OUTPUT, GATE_BY_INPUT = range(3)


def choose_gate(*, gated: bool, output_tells: bool, reads_x: bool, with_residual: bool) -> int:
    """The gate that reads least: y, or the value before the activation made anew from x."""
    if not gated:
        return NO_GATE
    if output_tells and (with_residual or not reads_x):
        return GATE_BY_OUTPUT
    return GATE_BY_INPUT


def _backward(
    dy: Tensor | None, dy2: Tensor | None, dmean: Tensor | None, dvar: Tensor | None,
    denergy: Tensor | None, dmap: Tensor | None, x: Tensor, y: Tensor | None,
    residual: Tensor | None, target: Tensor | None, mean: Tensor | None, running_mean: Tensor,
    running_var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float,
    bounds: Tensor | None, bits: int, act: int, gate: int, need_residual: bool,
    need_affine: bool, need_target: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    x = _layout.dense(x)
    dy, dy2, dmap = (None if d is None else _layout.like(d.to(x.dtype), x) for d in (dy, dy2, dmap))
    y, residual, target = (None if t is None else _layout.like(t, x) for t in (y, residual, target))
    dmean, dvar, denergy = (None if d is None else d.contiguous() for d in (dmean, dvar, denergy))
    shape = _layout.extents(x, 1)
    dx = torch.empty_like(x)
    dresidual, dtarget = (
        torch.empty_like(x) if needed else x.new_empty(0) for needed in (need_residual, need_target)
    )
    dweight, dbias = (running_mean.new_empty(shape[1] if need_affine else 0) for _ in range(2))
    scratch, counters = None, 0
    if need_affine:
        scratch = _workspace.scratch(x, _workspace.batch_stats_scratch(x, shape), torch.float64)
        counters = _workspace.counters(x, shape[1])
    core.batch_norm_backward(
        pointer(x), pointer(y), pointer(residual), pointer(target), pointer(dy), pointer(dy2),
        pointer(dmean), pointer(dvar), pointer(denergy), pointer(dmap), pointer(mean),
        pointer(running_mean), pointer(running_var), pointer(weight), pointer(bias), eps,
        pointer(bounds), bits, pointer(dx), pointer(dresidual) if need_residual else 0,
        pointer(dtarget) if need_target else 0, pointer(dweight) if need_affine else 0,
        pointer(dbias) if need_affine else 0, pointer(scratch), counters, DTYPES[x.dtype], *shape,
        x.shape[0], act, gate, *device_and_stream(x),
    )  # fmt: skip
    return dx, dresidual, dweight, dbias, dtarget


def upstream(
    first: Tensor | None, second: Tensor | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """The two gradients of an output that went two ways; the second is None unless both are."""
    return (second, None) if first is None else (first, second)


def _backward_reference(
    dy: Tensor | None, dy2: Tensor | None, dmean: Tensor | None, dvar: Tensor | None,
    denergy: Tensor | None, dmap: Tensor | None, x: Tensor, y: Tensor | None,
    residual: Tensor | None, target: Tensor | None, mean: Tensor | None, running_mean: Tensor,
    running_var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float,
    bounds: Tensor | None, bits: int, act: int, gate: int, need_residual: bool,
    need_affine: bool, need_target: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    dy = dy if dy2 is None else (dy2 if dy is None else dy + dy2)
    return reference.batch_norm_backward(
        dy, dmean, dvar, denergy, dmap, x, y, residual, target, mean, running_mean, running_var,
        weight, bias, eps, bounds, bits, activation=ACTIVATION_NAMES[act],
        by_input=gate == GATE_BY_INPUT, need_residual=need_residual, need_affine=need_affine,
        need_target=need_target,
    )  # fmt: skip


backward = register(
    "batch_norm_backward(Tensor? dy, Tensor? dy2, Tensor? dmean, Tensor? dvar, Tensor? denergy,"
    " Tensor? dmap, Tensor x, Tensor? y, Tensor? residual, Tensor? target, Tensor? mean,"
    " Tensor running_mean, Tensor running_var, Tensor? weight, Tensor? bias, float eps,"
    " Tensor? bounds, int bits, int activation, int gate, bool need_residual, bool need_affine,"
    " bool need_target) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _backward_reference,
    lambda dy, dy2, dmean, dvar, denergy, dmap, x, y, res, target, m, rm, *rest: (
        torch.empty_like(x),
        torch.empty_like(x) if rest[-3] else x.new_empty(0),
        rm.new_empty(rm.numel() if rest[-2] else 0),
        rm.new_empty(rm.numel() if rest[-2] else 0),
        torch.empty_like(x) if rest[-1] else x.new_empty(0),
    ),
)


def parameters(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None,
    bias: Tensor | None,
) -> list[Tensor | None]:  # fmt: skip
    """The four vectors [C] in the arithmetic dtype of ``x``; errors name the one that is wrong."""
    if x.dim() < 2 or x.numel() == 0:
        message = f"x has shape {tuple(x.shape)}; expected [N, C, ...] with at least one element"
        raise ValueError(message)
    dtype = reference.arithmetic_dtype(x.dtype)
    named = {
        "running_mean": running_mean,
        "running_var": running_var,
        "weight": weight,
        "bias": bias,
    }
    return [_parameter(name, value, x, dtype) for name, value in named.items()]


def _parameter(name: str, value: Any, x: Tensor, dtype: torch.dtype) -> Tensor | None:
    if value is None and name in ("weight", "bias"):
        return None
    _checks.floating(name, value)
    _checks.same_device(name, value, "x", x)
    if value.shape != (x.shape[1],):
        message = f"{name} has shape {tuple(value.shape)}; expected ({x.shape[1]},) as x.shape[1]"
        raise ValueError(message)
    ready: Tensor = value.to(dtype).contiguous()
    return ready


def check_alike(name: str, t: Tensor | None, x: Tensor) -> None:
    """``t``, if there is one, has the shape, dtype and device of ``x``."""
    if t is None:
        return
    _checks.floating(name, t)
    _checks.same_device(name, t, "x", x)
    if t.shape != x.shape or t.dtype != x.dtype:
        message = (
            f"{name} is {tuple(t.shape)} {t.dtype}; expected {tuple(x.shape)} {x.dtype} like x"
        )
        raise ValueError(message)
