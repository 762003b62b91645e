"""Cross-entropy weighted by the difficulty of each sample (Eq. 4, 7, 8), with its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hast_cuda.checks import tensors as _checks
from hast_cuda.ops import _autograd, _workspace
from hast_cuda.ops._autograd import scaled
from hast_cuda.ops._registry import core, launch, operator, pointer
from hast_cuda.ops.arithmetic import arithmetic_dtype

# At p = 1 the gradient of (1-p)^gamma is infinite for gamma < 1, and softmax reaches 1 exactly.
LARGEST_PROBABILITY = 1 - 1e-6


def label_log_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """``log p_y``, [N, classes] and [N] -> [N]."""
    wide = logits.to(arithmetic_dtype(logits.dtype))
    return torch.log_softmax(wide, dim=1).gather(1, labels[:, None])[:, 0]


def hard_sample_loss_reference(
    logits: Tensor, labels: Tensor, exponent: float, *, detach: bool = False
) -> tuple[Tensor, Tensor]:
    """Eq. 8, ``mean_i d_i^gamma * CE_i``, and, without gradient, the mean of d (Eq. 7)."""
    log_p = label_log_probability(logits, labels)
    difficulty = 1 - log_p.exp().clamp(max=LARGEST_PROBABILITY)
    weight = difficulty.pow(exponent)
    loss = (-(weight.detach() if detach else weight) * log_p).mean()
    return loss, difficulty.detach().mean()


def _with_gradient(
    logits: Tensor, labels: Tensor, exponent: float, detach: bool, need_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    wide = arithmetic_dtype(logits.dtype)
    with torch.enable_grad():
        leaf = logits.detach().to(wide, copy=True).requires_grad_()
        loss, difficulty = hard_sample_loss_reference(leaf, labels, exponent, detach=detach)
        (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), difficulty, gradient if need_gradient else loss.new_empty(0)


def _outputs(logits: Tensor, need_gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
    loss = logits.new_empty((), dtype=arithmetic_dtype(logits.dtype))
    shape = logits.shape if need_gradient else (0,)
    return loss, torch.empty_like(loss), loss.new_empty(shape)


@operator(_with_gradient, _outputs)
def _hard_sample_loss(
    logits: Tensor, labels: Tensor, exponent: float, detach: bool, need_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    logits, labels = logits.contiguous(), labels.contiguous()
    loss, difficulty, gradient = _outputs(logits, need_gradient)
    rows, classes = logits.shape
    scratch = _workspace.scratch(logits, 2 * rows, torch.float64)
    core.hard_sample_loss(
        logits=pointer(logits),
        labels=pointer(labels),
        gradient=pointer(gradient),
        loss=pointer(loss),
        difficulty=pointer(difficulty),
        scratch=pointer(scratch),
        counters=_workspace.counters(logits, 1),
        exponent=exponent,
        detach=detach,
        rows=rows,
        classes=classes,
        **launch(logits),
    )
    return loss, difficulty, gradient


class _HardSampleLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, exponent: float, detach: bool) -> tuple[Tensor, Tensor]:
        loss, difficulty, gradient = _hard_sample_loss(logits, labels, exponent, detach, ctx.needs_input_grad[0])
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(difficulty)
        ctx.dtype = logits.dtype
        return loss, difficulty

    @staticmethod
    @_autograd.once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return scaled(gradient, grads[0], ctx.dtype), None, None, None


def check_classes(logits: Tensor, labels: Tensor, *, values: bool) -> None:
    """``labels`` are classes of the rows of ``logits``; ``values`` are read on the CPU alone."""
    _checks.tensor("labels", labels)
    if labels.dtype != torch.int64:
        raise TypeError(f"labels has dtype {labels.dtype}; allowed: int64")
    _checks.same_device("labels", labels, "logits", logits)
    rows, classes = logits.shape
    if labels.shape != (rows,):
        raise ValueError(f"labels has shape {tuple(labels.shape)}; expected [{rows}] as logits has rows")
    if not (values and _checks.known_values(labels)):
        return
    lowest, highest = torch.aminmax(labels)
    if int(lowest) < 0 or int(highest) >= classes:
        index = int(((labels < 0) | (labels >= classes)).nonzero()[0])
        raise ValueError(f"labels[{index}] is {int(labels[index])}; allowed: 0 to {classes - 1}")


def hard_sample_loss(
    logits: Tensor, labels: Tensor, exponent: float, *, detach: bool = False, check_labels: bool = True
) -> tuple[Tensor, Tensor]:
    """Eq. 8, ``mean_i d_i^gamma * CE_i`` with ``d = 1 - min(p_y, 1 - 1e-6)``, in one launch.

    Args:
        logits: [N, classes], floating point, not empty.
        labels: [N] int64 on the same device, 0 to classes - 1. A label outside makes the loss and
            the gradient of its row NaN where labels are not read back to be checked.
        exponent: gamma >= 0, finite; 0 gives cross-entropy (Eq. 4).
        detach: no gradient through d.
        check_labels: read labels that are on the CPU and refuse wrong ones; those on CUDA never
            are, since that would synchronise.

    Returns:
        The loss and, without gradient, the mean of d (Eq. 7): 0-d float32 (float64 for float64).
        Gradient (once): ``w (p_j - [j = y]) / N`` with ``w = d^gamma``, plus
        ``gamma d^(gamma-1) p_y CE`` where d is differentiated and p_y not clamped; finite for
        logits whose differences are.

    Raises:
        TypeError: wrong dtype. ValueError: shapes or devices that do not fit, gamma < 0, on the CPU
            a label that is no class.

    Example:
        >>> import hast_cuda as hc
        >>> logits, labels = torch.randn(4, 10), torch.tensor([0, 1, 2, 3])
        >>> loss, difficulty = hc.hard_sample_loss(logits, labels, 2.0)
        >>> p = logits.softmax(1)[range(4), labels]  # equivalent to
        >>> torch.allclose(loss, ((1 - p) ** 2 * -p.log()).mean(), atol=1e-6)
        True
    """
    _checks.logits("logits", logits)
    _checks.flag("detach", detach)
    _checks.flag("check_labels", check_labels)
    check_classes(logits, labels, values=check_labels)
    _checks.not_negative("exponent", exponent)
    loss, difficulty = _HardSampleLoss.apply(logits, labels, float(exponent), detach)
    return loss, difficulty
