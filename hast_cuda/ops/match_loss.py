"""The BatchNorm-statistic loss of Eq. 3 over all layers of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hast_cuda.checks import tensors as _checks
from hast_cuda.ops import _autograd
from hast_cuda.ops._registry import core, launch, operator, pointer, pointers
from hast_cuda.ops.codes import Reduction

REDUCTIONS = ("mse", "norm", "relative")  # in the order of csrc/match_loss.h


def match_loss_reference(
    means: Sequence[Tensor],
    variances: Sequence[Tensor],
    running_means: Sequence[Tensor],
    running_vars: Sequence[Tensor],
    *,
    reduction: str = "mse",
) -> Tensor:
    """Eq. 3 over all layers: mean squared gaps ("mse", as released), as printed ("norm"), or
    mean squared gaps in units of the layer's mean variance or its root ("relative")."""
    terms = []
    for mean, var, running_mean, running_var in zip(means, variances, running_means, running_vars, strict=True):
        gap_mean, gap_var = mean - running_mean, var - running_var
        if reduction == "norm":
            terms.append(torch.linalg.vector_norm(gap_mean) + torch.linalg.vector_norm(gap_var))
        elif reduction == "relative":
            scale = running_var.mean()
            scale = torch.where(scale == 0, 1.0, scale)
            terms.append(gap_mean.square().mean() / scale + (gap_var / scale).square().mean())
        else:
            terms.append(gap_mean.square().mean() + gap_var.square().mean())
    return torch.stack(terms).sum() / len(terms)


def _with_gradient(
    means: list[Tensor],
    variances: list[Tensor],
    running_means: list[Tensor],
    running_vars: list[Tensor],
    reduction: str,
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in (*means, *variances)]
        split = len(means)
        loss = match_loss_reference(leaves[:split], leaves[split:], running_means, running_vars, reduction=reduction)
        grads = torch.autograd.grad(loss, leaves)
    packed = torch.stack((torch.cat(grads[:split]), torch.cat(grads[split:])))
    return loss.detach(), packed.nan_to_num(0.0)  # the norm has no gradient at 0: use 0 there


def _outputs(means: list[Tensor]) -> tuple[Tensor, Tensor]:
    return means[0].new_empty(()), means[0].new_empty(2, sum(m.numel() for m in means))


@operator(_with_gradient, _outputs)
def _match_loss(
    means: list[Tensor],
    variances: list[Tensor],
    running_means: list[Tensor],
    running_vars: list[Tensor],
    reduction: str,
) -> tuple[Tensor, Tensor]:
    loss, gradient = _outputs(means)
    core.match_loss(
        means=pointers(means),
        variances=pointers(variances),
        running_means=pointers(running_means),
        running_vars=pointers(running_vars),
        channels=[m.numel() for m in means],
        loss=pointer(loss),
        gradient=pointer(gradient),
        reduction=Reduction(REDUCTIONS.index(reduction)),
        **launch(loss),
    )
    return loss, gradient


class _MatchLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, reduction: str, layers: int, *tensors: Tensor) -> Tensor:
        groups = [list(tensors[i * layers : (i + 1) * layers]) for i in range(4)]
        loss, gradient = _match_loss(groups[0], groups[1], groups[2], groups[3], reduction)
        ctx.save_for_backward(gradient)
        ctx.sizes = [t.numel() for t in groups[0]]
        return loss

    @staticmethod
    @_autograd.once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        scaled = (gradient * grads[0]).view(-1)  # all means, then all variances
        layers = len(ctx.sizes)
        return (None, None, *scaled.split_with_sizes(ctx.sizes * 2), *(None,) * (2 * layers))


def match_loss(
    means: Sequence[Tensor],
    variances: Sequence[Tensor],
    running_means: Sequence[Tensor],
    running_vars: Sequence[Tensor],
    *,
    reduction: str = "mse",
) -> Tensor:
    """BatchNorm-statistic loss of Eq. 3 over all layers in one launch, with closed-form gradients.

    Args:
        means: per layer [C_l], batch means; ``variances`` likewise (from :func:`batch_norm_match`).
        running_means: the teacher's statistics per layer; ``running_vars`` likewise.
        reduction: "mse", ``1/L sum_l mean_c(gap^2)`` of mean and variance, as released; "norm",
            ``1/L sum_l ||gap||_2``, Eq. 3 as printed; "relative", "mse" of the gaps of means in
            units of ``sqrt(s_l)`` and of those of variances in units of ``s_l``, with
            ``s_l = mean_c(running_var)``, or 1 where that is 0: layers count alike.

    Returns:
        0-d loss. Gradients flow to ``means`` and ``variances`` (0 where a norm is 0).

    Raises:
        ValueError: no layers, lengths, shapes, dtypes or devices that differ, unknown reduction.

    Example:
        >>> import hast_cuda as hc
        >>> mean, var = torch.randn(8), torch.rand(8)
        >>> found = hc.match_loss([mean], [var], [torch.zeros(8)], [torch.ones(8)])
        >>> torch.allclose(found, mean.square().mean() + (var - 1).square().mean())  # equivalent to
        True
    """
    _checks.choice("reduction", reduction, REDUCTIONS)
    named = {"means": means, "variances": variances, "running_means": running_means, "running_vars": running_vars}
    groups = [_checks.tensors(name, values) for name, values in named.items()]
    layers = len(groups[0])
    if layers == 0 or any(len(g) != layers for g in groups):
        counts = [len(g) for g in groups]
        raise ValueError(
            f"expected equally many (at least 1) means, variances, running_means and running_vars, got {counts}"
        )
    dtype = getattr(groups[0][0], "dtype", None)
    for index, row in enumerate(zip(*groups, strict=True)):
        first = row[0]
        for name, t in zip(named, row, strict=True):
            _checks.floating(f"{name}[{index}]", t)
        if (
            any(t.shape != first.shape or t.dtype != dtype or t.device != groups[0][0].device for t in row)
            or first.dim() != 1
            or not first.numel()
        ):
            raise ValueError(
                f"layer {index}: all four statistics (means, variances, running_means and "
                "running_vars) must be [C], not empty, of one dtype and device in all layers"
            )
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(f"means[{index}] has dtype {dtype}; statistics are float32, or float64")
    flat = [t.contiguous() for group in groups for t in group]
    loss: Tensor = _MatchLoss.apply(reduction, layers, *flat)
    return loss
