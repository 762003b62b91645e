"""Difficulty of a sample and the losses on its label: Eq. 4, 7, 8 and IntraQ's."""

from __future__ import annotations

import torch
from torch import Tensor

from hast_cuda import ops
from hast_cuda.checks import tensors as _checks
from hast_cuda.ops.hard_sample_loss import check_classes

LARGEST_PROBABILITY = 1 - 1e-6  # as in the op


def _check(logits: Tensor, labels: Tensor, *, values: bool = True) -> None:
    """They are logits and their labels."""
    _checks.logits("logits", logits)
    check_classes(logits, labels, values=values)


def difficulty(logits: Tensor, labels: Tensor) -> Tensor:
    """Eq. 7: ``d = 1 - p_y``, [N, classes] and [N] -> [N] in float32; p is clamped to 1 - 1e-6.

    Raises:
        TypeError, ValueError: as :func:`hast_cuda.ops.hard_sample_loss`.
    """
    _check(logits, labels)
    log_p = torch.log_softmax(logits.float(), dim=1).gather(1, labels[:, None])[:, 0]
    return 1 - log_p.exp().clamp(max=LARGEST_PROBABILITY)


def hard_sample_loss(
    logits: Tensor, labels: Tensor, exponent: float = 2.0, *, detach: bool = False
) -> Tensor:
    """Eq. 8: ``mean_i d_i^gamma * CE_i``, the loss of :func:`hast_cuda.ops.hard_sample_loss`.

    Args:
        logits: [N, classes].
        labels: [N] int64.
        exponent: gamma >= 0; 0 gives Eq. 4.
        detach: no gradient through d.

    Returns:
        0-d float32 loss (float64 for float64), with finite gradient for any finite logits.
    """
    return ops.hard_sample_loss(logits, labels, exponent, detach=detach)[0]


def soft_label_loss(
    logits: Tensor, labels: Tensor, targets: Tensor, *, check_labels: bool = True
) -> tuple[Tensor, Tensor]:
    """IntraQ's soft inception loss, ``mean_i (p_i - t_i)^2`` with p the label's probability.

    Args:
        logits: [N, classes].
        labels: [N] int64.
        targets: [N] float32, the t.
        check_labels: as in :func:`hast_cuda.ops.hard_sample_loss`.

    Returns:
        The loss and, without gradient, the mean difficulty (Eq. 7); 0-d float32.

    Raises:
        TypeError, ValueError: as :func:`hast_cuda.ops.hard_sample_loss`; targets of another shape.
    """
    _checks.flag("check_labels", check_labels)
    _check(logits, labels, values=check_labels)
    _checks.floating("targets", targets)
    _checks.same_device("targets", targets, "logits", logits)
    if targets.shape != labels.shape:
        message = f"targets has shape {tuple(targets.shape)}; expected {tuple(labels.shape)}"
        raise ValueError(message)
    p = torch.softmax(logits.float(), dim=1).gather(1, labels[:, None])[:, 0]
    d = 1 - p.detach().clamp(max=LARGEST_PROBABILITY)
    return (p - targets).square().mean(), d.mean()
