"""Eager twins of the BatchNorm ops, their gradient, and the attention vectors (Eq. 14)."""

from __future__ import annotations

import torch
from torch import Tensor

from hast_cuda.ops._reference_quantization import (
    activate,
    arithmetic_dtype,
    broadcast,
    fake_quantize,
    fake_quantize_backward,
)


def channel_attention(feature: Tensor) -> Tensor:
    """Eq. 14: ``sum over space of f^2``, [N, C, ...] -> [N, C]."""
    return feature.to(arithmetic_dtype(feature.dtype)).square().flatten(2).sum(2)


def affine(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None,
    bias: Tensor | None, eps: float,
) -> Tensor:  # fmt: skip
    """Eval-mode BatchNorm ``weight*(x - running_mean)/sqrt(running_var + eps) + bias``."""
    scale = torch.rsqrt(running_var + eps)
    if weight is not None:
        scale = scale * weight
    y = (x - broadcast(running_mean, x, 1)) * broadcast(scale, x, 1)
    return y if bias is None else y + broadcast(bias, x, 1)


def batch_norm_match(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None,
    bias: Tensor | None, eps: float, *, activation: str | None = None,
    residual: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Eval-mode BatchNorm of ``x`` and the batch mean and biased variance that Eq. 3 compares."""
    dtype = arithmetic_dtype(x.dtype)
    wide = x.to(dtype)
    dims = [d for d in range(x.dim()) if d != 1]
    var, mean = torch.var_mean(wide, dim=dims, correction=0)
    y = affine(wide, running_mean, running_var, weight, bias, eps)
    if residual is not None:
        y = y + residual.to(dtype)
    return activate(y, activation).to(x.dtype), mean, var


def batch_norm_activation(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None,
    bias: Tensor | None, eps: float, *, activation: str | None = None,
    residual: Tensor | None = None, bounds: Tensor | None = None, bits: int = 4,
    target: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """``Q(act(u + residual))`` with ``u`` the eval-mode BatchNorm, Eq. 14 of ``u - target``, and u.

    Under autograd the quantizer is straight-through: the gradient of the identity.
    """
    dtype = arithmetic_dtype(x.dtype)
    u = affine(x.to(dtype), running_mean, running_var, weight, bias, eps)
    v = u if residual is None else u + residual.to(dtype)
    y = activate(v, activation)
    if bounds is not None:
        quantized = fake_quantize(y.detach(), bounds[0:1], bounds[1:2], bits)
        # y + (quantized - y) would round twice
        y = quantized + (y - y.detach()) if y.requires_grad else quantized
    apart = u if target is None else u - target.to(dtype)
    energy = channel_attention(apart) if u.dim() > 2 else apart.square()
    return y.to(x.dtype), energy, u.to(x.dtype)


def batch_norm_backward(
    dy: Tensor | None, dmean: Tensor | None, dvar: Tensor | None, denergy: Tensor | None,
    dmap: Tensor | None, x: Tensor, y: Tensor | None, residual: Tensor | None,
    target: Tensor | None, mean: Tensor | None, running_mean: Tensor, running_var: Tensor,
    weight: Tensor | None, bias: Tensor | None, eps: float, bounds: Tensor | None, bits: int, *,
    activation: str | None, by_input: bool, need_residual: bool, need_affine: bool,
    need_target: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients (x, residual, weight, bias, target) of both BatchNorm ops; unwanted ones are empty.

    ``dx = a*du + dmean/n + 2*dvar*(x - mean)/n``, ``du = g + dmap + 2*denergy*(u - target)``,
    g = dy where it passes.
    """
    dtype = running_mean.dtype
    wide, dims = x.to(dtype), [d for d in range(x.dim()) if d != 1]
    per_channel = x.numel() // x.shape[1]
    inverse = torch.rsqrt(running_var + eps)
    scale = inverse if weight is None else inverse * weight
    u = affine(wide, running_mean, running_var, weight, bias, eps)
    g = torch.zeros_like(wide) if dy is None else dy.to(dtype)
    before = u if residual is None else u + residual.to(dtype)
    gate = before if by_input else y
    if gate is not None:
        bound = bounds if by_input else None
        g = fake_quantize_backward(
            g, gate, *((bound[0:1], bound[1:2]) if bound is not None else (gate, gate)), bits,
            activation=activation, clipped=bound is not None,
        )  # fmt: skip
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
