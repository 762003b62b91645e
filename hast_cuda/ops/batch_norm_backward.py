"""The gradient of batch_norm_match and of batch_norm_activation, in one kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from hast_cuda.ops import _layout, _workspace
from hast_cuda.ops._registry import core, launch, operator, pointer
from hast_cuda.ops.activations import CODES
from hast_cuda.ops.arithmetic import broadcast
from hast_cuda.ops.batch_norm import affine
from hast_cuda.ops.codes import Gate, Pointer
from hast_cuda.ops.fake_quantize import fake_quantize_backward_reference

# What tells the gradient where the activation passed.
NO_GATE, GATE_BY_OUTPUT, GATE_BY_INPUT = range(3)


def choose_gate(*, gated: bool, output_tells: bool, reads_x: bool, with_residual: bool) -> int:
    """The gate that reads least: y, or the value before the activation made anew from x."""
    if not gated:
        return NO_GATE
    if output_tells and (with_residual or not reads_x):
        return GATE_BY_OUTPUT
    return GATE_BY_INPUT


def upstream(first: Tensor | None, second: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
    """The two gradients of an output that went two ways; the second is None unless both are."""
    return (second, None) if first is None else (first, second)


def batch_norm_backward_reference(
    dy: Tensor | None,
    dy2: Tensor | None,
    dmean: Tensor | None,
    dvar: Tensor | None,
    denergy: Tensor | None,
    dmap: Tensor | None,
    x: Tensor,
    y: Tensor | None,
    residual: Tensor | None,
    target: Tensor | None,
    mean: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    bounds: Tensor | None,
    bits: int,
    activation: str | None,
    gate: int,
    need_residual: bool,
    need_affine: bool,
    need_target: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients (x, residual, weight, bias, target) of both BatchNorm ops; unwanted ones are empty.

    ``dx = a*du + dmean/n + 2*dvar*(x - mean)/n``, ``du = g + dmap + 2*denergy*(u - target)``,
    g = dy + dy2 where they pass.
    """
    dtype, by_input = running_mean.dtype, gate == GATE_BY_INPUT
    dy = dy if dy2 is None else (dy2 if dy is None else dy + dy2)
    wide, dims = x.to(dtype), [d for d in range(x.dim()) if d != 1]
    per_channel = x.numel() // x.shape[1]
    inverse = torch.rsqrt(running_var + eps)
    scale = inverse if weight is None else inverse * weight
    u = affine(wide, running_mean, running_var, weight, bias, eps)
    g = torch.zeros_like(wide) if dy is None else dy.to(dtype)
    before = u if residual is None else u + residual.to(dtype)
    passing = before if by_input else y
    if passing is not None:
        bound = bounds if by_input else None
        g = fake_quantize_backward_reference(
            g,
            passing,
            *((bound[0:1], bound[1:2]) if bound is not None else (passing,) * 2),
            bits,
            activation=activation,
            clipped=bound is not None,
        )
    dresidual = g.to(x.dtype) if need_residual else x.new_empty(0)
    dtarget = x.new_empty(0)
    if dmap is not None:
        g = g + dmap.to(dtype)
    if denergy is not None:
        apart = u if target is None else u - target.to(dtype)
        apart = 2 * denergy.reshape(*denergy.shape, *[1] * (x.dim() - 2)) * apart
        g = g + apart
        if need_target:
            dtarget = -apart.to(x.dtype)
    dx = g * broadcast(scale, x, 1)
    if dmean is not None:
        dx = dx + broadcast(dmean / per_channel, x, 1)
    if dvar is not None and mean is not None:
        dx = dx + broadcast(dvar * (2 / per_channel), x, 1) * (wide - broadcast(mean, x, 1))
    dweight = dbias = running_mean.new_empty(0)
    if need_affine:
        normalised = (wide - broadcast(running_mean, x, 1)) * broadcast(inverse, x, 1)
        dweight, dbias = (g * normalised).sum(dims), g.sum(dims)
    return dx.to(x.dtype), dresidual, dweight, dbias, dtarget


def _gradients(
    x: Tensor, running_mean: Tensor, need_residual: bool, need_affine: bool, need_target: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Empty ones of x, residual, weight, bias and target; nothing where none is needed."""
    channels = x.shape[1] if need_affine else 0
    return (
        torch.empty_like(x),
        torch.empty_like(x) if need_residual else x.new_empty(0),
        running_mean.new_empty(channels),
        running_mean.new_empty(channels),
        torch.empty_like(x) if need_target else x.new_empty(0),
    )


def _ready(t: Tensor | None, x: Tensor) -> Tensor | None:
    """``t`` in the type and the layout of ``x``."""
    if t is None:
        return None
    return _layout.like(t if t.dtype is x.dtype else t.to(x.dtype), x)


@operator(batch_norm_backward_reference, _gradients)
def batch_norm_backward(
    dy: Tensor | None,
    dy2: Tensor | None,
    dmean: Tensor | None,
    dvar: Tensor | None,
    denergy: Tensor | None,
    dmap: Tensor | None,
    x: Tensor,
    y: Tensor | None,
    residual: Tensor | None,
    target: Tensor | None,
    mean: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    bounds: Tensor | None,
    bits: int,
    activation: str | None,
    gate: int,
    need_residual: bool,
    need_affine: bool,
    need_target: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients as :func:`batch_norm_backward_reference`, from one read of every operand."""
    x = _layout.dense(x)
    dy, dy2, dmap = _ready(dy, x), _ready(dy2, x), _ready(dmap, x)
    y, residual, target = _ready(y, x), _ready(residual, x), _ready(target, x)
    dmean = None if dmean is None else dmean.contiguous()
    dvar = None if dvar is None else dvar.contiguous()
    denergy = None if denergy is None else denergy.contiguous()
    shape, place = _layout.extents(x, 1), launch(x)
    results = _gradients(x, running_mean, need_residual, need_affine, need_target)
    dx, dresidual, dweight, dbias, dtarget = map(pointer, results)
    scratch, counters = None, Pointer(0)
    if need_affine:
        count = core.batch_norm_match_scratch(**shape, device=place["device"])
        scratch = _workspace.scratch(x, count, torch.float64)
        counters = _workspace.counters(x, shape["channels"])
    core.batch_norm_backward(
        x=pointer(x),
        y=pointer(y),
        residual=pointer(residual),
        target=pointer(target),
        dy=pointer(dy),
        dy2=pointer(dy2),
        dmean=pointer(dmean),
        dvar=pointer(dvar),
        denergy=pointer(denergy),
        dmap=pointer(dmap),
        mean=pointer(mean),
        running_mean=pointer(running_mean),
        running_var=pointer(running_var),
        weight=pointer(weight),
        bias=pointer(bias),
        eps=eps,
        range=pointer(bounds),
        bits=bits,
        dx=dx,
        dresidual=dresidual,
        dtarget=dtarget,
        dweight=dweight,
        dbias=dbias,
        scratch=pointer(scratch),
        counters=counters,
        images=x.shape[0],
        activation=CODES[activation],
        gate=Gate(gate),
        **shape,
        **place,
    )
    return results
