"""Eager twins of the losses (Eq. 3, 6, 8, 13) and of the plateau rule."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hast_cuda.ops._reference_batch_norm import channel_attention
from hast_cuda.ops._reference_quantization import arithmetic_dtype

ENERGY_FLOOR = 1e-12  # as RANGE_FLOOR, for the norm of an all-zero attention vector
# At p = 1 the gradient of (1-p)^gamma is infinite for gamma < 1, and softmax reaches 1 exactly.
LARGEST_PROBABILITY = 1 - 1e-6


def match_loss(
    means: Sequence[Tensor], variances: Sequence[Tensor], running_means: Sequence[Tensor],
    running_vars: Sequence[Tensor], *, reduction: str = "mse",
) -> Tensor:  # fmt: skip
    """Eq. 3 over all layers: mean squared gaps ("mse", as released), as printed ("norm"), or
    mean squared gaps in units of the layer's mean variance or its root ("relative")."""
    terms = []
    for mean, var, running_mean, running_var in zip(
        means, variances, running_means, running_vars, strict=True
    ):
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


def energy_loss(
    teacher: Sequence[Tensor], student: Sequence[Tensor], spatial: Sequence[int],
    *, normalized: bool = True,
) -> Tensor:  # fmt: skip
    """Eq. 13 between attention vectors [N, C]; ``spatial`` is the number of positions per map.

    ``normalized`` (as released): sum over layers of the mean over samples and channels of the
    squared gap between L2-normalised vectors. Otherwise Eq. 12-14 as printed: the mean over samples
    and layers of the squared L2 distance between the plain vectors.
    """
    terms = []
    for a_t, a_s, positions in zip(teacher, student, spatial, strict=True):
        if normalized:
            floor = ENERGY_FLOOR * positions  # the released code averages over space first
            gap = _directions(a_s, floor) - _directions(a_t, floor)
            terms.append(gap.square().mean())
        else:
            terms.append((a_s - a_t).square().sum(1).mean() / len(teacher))
    return torch.stack(terms).sum()


def _directions(energies: Tensor, floor: float) -> Tensor:
    """``F.normalize``, but for the norm: squares of large energies leave the range of float32."""
    norm = torch.linalg.vector_norm(energies, dim=1, keepdim=True, dtype=torch.float64)
    directions: Tensor = energies / norm.to(energies.dtype).clamp(min=floor)
    return directions


def attention_loss(
    teacher: Sequence[Tensor], student: Sequence[Tensor], *, normalized: bool = True
) -> Tensor:
    """Eq. 13-14 over all pairs of maps [N, C, ...]."""
    energies_t, energies_s = ([channel_attention(f) for f in maps] for maps in (teacher, student))
    spatial = [f[0, 0].numel() for f in teacher]
    return energy_loss(energies_t, energies_s, spatial, normalized=normalized)


def distillation_loss(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Eq. 6: ``KL(softmax(t/T) || softmax(s/T))``, summed over classes, averaged over the batch."""
    log_p, log_q = (
        F.log_softmax(x.to(arithmetic_dtype(x.dtype)) / temperature, dim=1)
        for x in (teacher, student)
    )
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def label_log_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """``log p_y``, [N, classes] and [N] -> [N]."""
    wide = logits.to(arithmetic_dtype(logits.dtype))
    return torch.log_softmax(wide, dim=1).gather(1, labels[:, None])[:, 0]


def hard_sample_loss(
    logits: Tensor, labels: Tensor, exponent: float, *, detach: bool = False
) -> tuple[Tensor, Tensor]:
    """Eq. 8, ``mean_i d_i^gamma * CE_i``, and, without gradient, the mean of d (Eq. 7)."""
    log_p = label_log_probability(logits, labels)
    difficulty = 1 - log_p.exp().clamp(max=LARGEST_PROBABILITY)
    weight = difficulty.pow(exponent)
    loss = (-(weight.detach() if detach else weight) * log_p).mean()
    return loss, difficulty.detach().mean()


def plateau_step(
    state: Tensor, rate: Tensor, loss: Tensor, patience: int, factor: float, threshold: float,
    minimum: float,
) -> None:  # fmt: skip
    """One step of torch's ReduceLROnPlateau; ``state`` is float64 [learning rate, best, bad]."""
    learning_rate, best, bad = state.clone()
    current = loss.double()
    better = current < best * (1 - threshold)
    bad = torch.where(better, 0.0, bad + 1)
    stalled = bad > patience
    lower = (learning_rate * factor).clamp(min=minimum)
    change = stalled & (learning_rate - lower > 1e-8)
    state[0] = torch.where(change, lower, learning_rate)
    state[1] = torch.where(better, current, best)
    state[2] = torch.where(stalled, 0.0, bad)
    rate.copy_(state[0])
