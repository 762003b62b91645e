"""Difficulty of a sample and the hard-sample-enhanced inception loss (Eq. 4, 7, 8)."""

from __future__ import annotations

import torch
from torch import Tensor

# At p = 1 the gradient of (1-p)^gamma is infinite for gamma < 1, and float32 softmax reaches 1
# exactly.
LARGEST_PROBABILITY = 1 - 1e-6


def _log_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """log p_y, [N] float32."""
    return torch.log_softmax(logits.float(), dim=1).gather(1, labels[:, None])[:, 0]


def _difficulty(log_p: Tensor) -> Tensor:
    return 1 - log_p.exp().clamp(max=LARGEST_PROBABILITY)


def difficulty(logits: Tensor, labels: Tensor) -> Tensor:
    """Eq. 7: ``d = 1 - p_y``, [N, classes] and [N] -> [N] in float32; p is clamped to 1 - 1e-6."""
    return _difficulty(_log_probability(logits, labels))


def hard_sample_loss(
    logits: Tensor, labels: Tensor, exponent: float = 2.0, *, detach: bool = False
) -> Tensor:
    """Eq. 8: ``mean_i d_i^gamma * CE_i``; ``exponent`` 0 gives Eq. 4.

    Args:
        logits: [N, classes].
        labels: [N] int64.
        exponent: gamma >= 0.
        detach: no gradient through d.

    Returns:
        0-d float32 loss, finite with finite gradient for any finite logits.
    """
    log_p = _log_probability(logits, labels)
    weight = _difficulty(log_p).pow(exponent)
    return (-(weight.detach() if detach else weight) * log_p).mean()
