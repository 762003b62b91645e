"""BatchNorm in eval mode together with the batch statistics of its input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hast_cuda.checks import tensors as _checks
from hast_cuda.ops import _autograd, _layout, _workspace
from hast_cuda.ops._registry import core, launch, operator, pointer
from hast_cuda.ops.activations import CODES, activate, activation_code
from hast_cuda.ops.arithmetic import arithmetic_dtype
from hast_cuda.ops.batch_norm import affine, check_alike, parameters
from hast_cuda.ops.batch_norm_backward import GATE_BY_OUTPUT, batch_norm_backward, choose_gate, upstream


def batch_norm_match_reference(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Eval-mode BatchNorm of ``x`` and the batch mean and biased variance that Eq. 3 compares."""
    dtype = arithmetic_dtype(x.dtype)
    wide = x.to(dtype)
    dims = [d for d in range(x.dim()) if d != 1]
    var, mean = torch.var_mean(wide, dim=dims, correction=0)
    y = affine(wide, running_mean, running_var, weight, bias, eps)
    if residual is not None:
        y = y + residual.to(dtype)
    return activate(y, activation).to(x.dtype), mean, var


def _outputs(x: Tensor, running_mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(running_mean), torch.empty_like(running_mean)


@operator(batch_norm_match_reference, _outputs)
def _batch_norm_match(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    x = _layout.dense(x)
    residual = None if residual is None else _layout.like(residual, x)
    shape, place = _layout.extents(x, 1), launch(x)
    y, mean, var = _outputs(x, running_mean)
    count = core.batch_norm_match_scratch(**shape, device=place["device"])
    scratch = _workspace.scratch(x, count, torch.float64)
    core.batch_norm_match(
        x=pointer(x),
        residual=pointer(residual),
        y=pointer(y),
        mean=pointer(mean),
        var=pointer(var),
        running_mean=pointer(running_mean),
        running_var=pointer(running_var),
        weight=pointer(weight),
        bias=pointer(bias),
        eps=eps,
        activation=CODES[activation],
        scratch=pointer(scratch),
        counters=_workspace.counters(x, shape["channels"]),
        **shape,
        **place,
    )
    return y, mean, var


class _BatchNormMatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        x, running_mean, running_var, weight, bias, eps, activation, residual, twice = arguments
        outputs = _batch_norm_match(*arguments[:-1])
        y, mean, _ = outputs
        if True not in ctx.needs_input_grad:  # nobody will ask: what follows costs as much as a small map
            return (*outputs, y.detach()) if twice else outputs
        gate = choose_gate(
            gated=activation is not None, output_tells=True, reads_x=True, with_residual=residual is not None
        )
        by_output = gate == GATE_BY_OUTPUT
        ctx.save_for_backward(x, y if by_output else None, mean, running_mean, running_var, weight, bias)
        ctx.eps, ctx.activation, ctx.gate = eps, activation, gate
        ctx.set_materialize_grads(False)
        return (*outputs, y.detach()) if twice else outputs

    @staticmethod
    @_autograd.once
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, y, mean, running_mean, running_var, weight, bias = ctx.saved_tensors
        needs = ctx.needs_input_grad
        dy, dy2 = upstream(grads[0], grads[3] if len(grads) == 4 else None)
        need_residual = needs[7] and dy is not None
        need_affine = (needs[3] or needs[4]) and dy is not None
        changed = bool(ctx.gate) or dy2 is not None
        given = dy, dy2, grads[1], grads[2], None, None
        norm = mean, running_mean, running_var, weight, bias, ctx.eps
        needed = need_residual and changed, need_affine, False
        dx, dresidual, dweight, dbias, _ = batch_norm_backward(
            *given, x, y, None, None, *norm, None, 0, ctx.activation, ctx.gate, *needed
        )
        passed = dresidual if changed else dy  # where nothing stops it, no copy
        found: dict[int, Tensor | None] = {0: dx}  # by argument of forward
        found |= ({3: dweight, 4: dbias} if need_affine else {}) | ({7: passed} if need_residual else {})
        return tuple(found.get(index) if need else None for index, need in enumerate(needs))


def batch_norm_match(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    twice: bool = False,
) -> tuple[Tensor, ...]:
    """Eval-mode BatchNorm and, from the same read of ``x``, the batch statistics of Eq. 3.

    ``y = act(weight*(x - running_mean)/sqrt(running_var + eps) + bias + residual)``;
    ``mean_c`` and biased ``var_c`` are taken over every axis but 1.

    Args:
        x: [N, C, ...], contiguous or channels_last; float32, float16, bfloat16 or float64.
        running_mean: [C], and likewise ``running_var``, ``weight`` and ``bias`` (None = 1 and 0).
        eps: added to ``running_var``.
        activation: None, "relu" or "relu6".
        residual: tensor like ``x``, added before the activation.
        twice: also return y a second time, as an alias, for a network that uses it twice: both
            gradients are then added up in the backward kernel.

    Returns:
        (y like ``x``, mean [C], var [C]), and with ``twice`` y again; statistics in
        float32 (float64 for float64 ``x``). Gradients flow from all outputs to x, and to weight,
        bias and residual.

    Raises:
        TypeError: wrong dtype. ValueError: shapes or devices that differ, no elements.

    Example:
        >>> import hast_cuda as hc
        >>> x, norm = torch.randn(4, 8, 5, 5), torch.nn.BatchNorm2d(8).eval()
        >>> y, mean, var = hc.batch_norm_match(x, norm.running_mean, norm.running_var)
        >>> torch.allclose(y, norm(x), atol=1e-6)  # equivalent to
        True
        >>> torch.allclose(var, x.var(dim=(0, 2, 3), correction=0), atol=1e-6)
        True
    """
    _checks.floating("x", x)
    activation_code(activation)
    ready = parameters(x, running_mean, running_var, weight, bias)
    check_alike("residual", residual, x)
    _checks.not_negative("eps", eps)
    _checks.flag("twice", twice)
    result: tuple[Tensor, ...] = _autograd.apply(_BatchNormMatch, x, *ready, eps, activation, residual, twice)
    return result
