"""BatchNorm in eval mode together with the batch statistics of its input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hast_cuda.checks import tensors as _checks
from hast_cuda.ops import _batch_norm, _layout, _workspace, reference
from hast_cuda.ops._registry import DTYPES, core, device_and_stream, pointer, register
from hast_cuda.ops.activations import ACTIVATION_NAMES, activation_code


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


_batch_norm_match = register(
    "batch_norm_match(Tensor x, Tensor running_mean, Tensor running_var, Tensor? weight,"
    " Tensor? bias, float eps, int activation, Tensor? residual) -> (Tensor, Tensor, Tensor)",
    _forward,
    _forward_reference,
    lambda x, mean, *_: (torch.empty_like(x), torch.empty_like(mean), torch.empty_like(mean)),
)


class _BatchNormMatch(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None,
        bias: Tensor | None, eps: float, act: int, residual: Tensor | None, twice: bool,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        outputs: tuple[Tensor, Tensor, Tensor] = _batch_norm_match(
            x, running_mean, running_var, weight, bias, eps, act, residual
        )
        y, mean, _ = outputs
        gate = _batch_norm.choose_gate(
            gated=bool(act), output_tells=True, reads_x=True, with_residual=residual is not None
        )
        by_output = gate == _batch_norm.GATE_BY_OUTPUT
        ctx.save_for_backward(
            x, y if by_output else None, mean, running_mean, running_var, weight, bias
        )
        ctx.eps, ctx.act, ctx.gate = eps, act, gate
        ctx.set_materialize_grads(False)
        return (*outputs, y.detach()) if twice else outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, y, mean, running_mean, running_var, weight, bias = ctx.saved_tensors
        needs = ctx.needs_input_grad
        dy, dy2 = _batch_norm.upstream(grads[0], grads[3] if len(grads) == 4 else None)
        need_residual = needs[7] and dy is not None
        need_affine = (needs[3] or needs[4]) and dy is not None
        changed = bool(ctx.gate) or dy2 is not None
        dx, dresidual, dweight, dbias, _ = _batch_norm.backward(
            dy, dy2, grads[1], grads[2], None, None, x, y, None, None, mean, running_mean,
            running_var, weight, bias, ctx.eps, None, 0, ctx.act, ctx.gate,
            need_residual and changed, need_affine, False,
        )  # fmt: skip
        if not changed:
            dresidual = dy  # nothing stops it: no copy
        return (
            dx if needs[0] else None, None, None,
            dweight if needs[3] and need_affine else None,
            dbias if needs[4] and need_affine else None,
            None, None, dresidual if need_residual else None, None,
        )  # fmt: skip


def batch_norm_match(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None = None,
    bias: Tensor | None = None, eps: float = 1e-5, *, activation: str | None = None,
    residual: Tensor | None = None, twice: bool = False,
) -> tuple[Tensor, ...]:  # fmt: skip
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
    """
    _checks.floating("x", x)
    code = activation_code(activation)
    ready = _batch_norm.parameters(x, running_mean, running_var, weight, bias)
    _batch_norm.check_alike("residual", residual, x)
    _checks.not_negative("eps", eps)
    _checks.flag("twice", twice)
    result: tuple[Tensor, ...] = _BatchNormMatch.apply(x, *ready, eps, code, residual, twice)
    return result
