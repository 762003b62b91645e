"""The loss of fine-tuning: distillation, alignment of features or class activation maps, labels (Eq. 6, 11-14)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hast_cuda.finetune.config import FinetuneConfig
from hast_cuda.merged.followed import ForwardResult
from hast_cuda.ops import attention_energy_loss, distillation_loss, hard_sample_loss
from hast_cuda.ops.arithmetic import arithmetic_dtype

TERMS = ("distillation", "alignment", "label")  # in the order of loss_terms; labels may not count


SMALLEST_UNIT = 1e-9  # of a term for a student that already says what its teacher says


def loss_weights(config: FinetuneConfig, units: Sequence[float] = ()) -> tuple[float, ...]:
    """What the terms of :func:`loss_terms` are multiplied by: alpha * T^2, lambda and, where labels
    count, their weight; or, of terms measured in ``units``, alpha, lambda and that over those."""
    scale = 1.0 if units else config.temperature**2
    weights = config.distillation_weight * scale, config.feature_weight, config.label_weight
    counted = weights if config.label_weight else weights[:2]
    if not units:
        return counted
    return tuple(weight / max(unit, SMALLEST_UNIT) for weight, unit in zip(counted, units, strict=True))


def loss_terms(
    config: FinetuneConfig, teacher: ForwardResult, student: ForwardResult, labels: Tensor | None = None
) -> tuple[Tensor, ...]:
    """(KL, alignment: Eq. 13, or the squared error of maps or of class activation maps) and, where
    labels count, cross entropy.

    Without their weights; the alignment is summed over layers.
    """
    distillation = distillation_loss(teacher.logits, student.logits, config.temperature)
    if config.distillation_reduction == "mean":
        distillation = distillation / student.logits.shape[1]
    if labels is None and config.uses_labels:
        used = f"label_weight is {config.label_weight} and alignment {config.alignment!r}"
        raise ValueError(f"{used}, but the images came without labels")
    if labels is not None and student.classifier is not None:
        alignment = activation_map_distance(teacher, student, labels)
    elif student.distances:
        alignment = map_distance(student.distances, student.positions)
    elif student.energies:
        pair, normalized = (teacher.energies, student.energies), config.normalized_attention
        alignment = attention_energy_loss(*pair, student.positions, normalized=normalized)
    else:
        alignment = distillation.new_zeros(())
    if not config.label_weight or labels is None:
        return distillation, alignment
    if config.label_difficulty < 1:
        return distillation, alignment, easy_label_loss(teacher.logits, student.logits, labels, config.label_difficulty)
    return distillation, alignment, label_loss(student.logits, labels)


def easy_label_loss(teacher: Tensor, student: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """``1/N sum_i [1 - p_i < threshold] CE_i``, p_i the teacher's probability of the label; 0-d.

    SynQ's cross entropy of the images that the teacher is sure of. Of labels that are
    probabilities q, ``p = sum_c q_c p_c``. N counts all images, so that processes can share them.
    """
    probabilities = _wide(teacher.detach()).softmax(1)
    if labels.dim() == 1:
        sure = probabilities.gather(1, labels[:, None])[:, 0]
    else:
        sure = (probabilities * labels).sum(1)
        labels = labels.to(_wide(student).dtype)
    return (F.cross_entropy(_wide(student), labels, reduction="none") * (sure > 1 - threshold)).mean()


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy (Eq. 6) of classes [N] int64 or probabilities [N, classes]; 0-d, >= float32."""
    if labels.dim() == 1:
        # difficulty to the power of 0: Eq. 4, in one launch with its gradient
        return hard_sample_loss(logits, labels, 0.0, check_labels=False)[0]
    wide = _wide(logits)
    return F.cross_entropy(wide, labels.to(wide.dtype))


class _MapDistance(torch.autograd.Function):
    """A handful of launches for any number of layers, none of them larger than the distances."""

    @staticmethod
    def forward(ctx: Any, shares: list[float], *distances: Tensor) -> Tensor:
        ctx.shares, ctx.shapes = shares, [d.shape for d in distances]
        parts = torch._foreach_mul(list(distances), shares)
        return torch.cat([part.flatten() for part in parts]).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        sizes = [shape.numel() for shape in ctx.shapes]
        same = grads[0].expand(sum(sizes)).contiguous().split_with_sizes(sizes)
        parts = torch._foreach_mul(same, ctx.shares)
        return None, *(part.view(shape) for part, shape in zip(parts, ctx.shapes, strict=True))


def map_distance(distances: list[Tensor], positions: list[int]) -> Tensor:
    """``sum_l mean (f_s - f_t)^2`` over N, C, H, W (Table 7), without the factor lambda of Eq. 12.

    ``distances`` [N, C_l] are ``sum over space of (f_s - f_t)^2``, ``positions`` their H_l * W_l.
    """
    shares = [1.0 / (d.numel() * count) for d, count in zip(distances, positions, strict=True)]
    loss: Tensor = _MapDistance.apply(shares, *distances)
    return loss


def direct_alignment(teacher: list[Tensor], student: list[Tensor]) -> Tensor:
    """:func:`map_distance` from maps of equal shapes, in ops that can be differentiated twice."""
    errors = [F.mse_loss(_wide(f_s), _wide(f_t)) for f_t, f_s in zip(teacher, student, strict=True)]
    return torch.stack(errors).sum()


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def class_activation_map(feature: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
    """``ReLU(sum_k alpha_k A_k)``, [N, positions], of the map A [N, K, ...] and the classes ``chosen`` [N, classes].

    ``alpha_k``, the mean over space of ``d y_c / d A_k``, is ``w_ck / positions`` where the logits
    are ``y = W mean(A) + b``: no second backward pass, and gradients of every order. Of probabilities
    the maps are those of ``sum_c p_c y_c``.
    """
    wide = arithmetic_dtype(feature.dtype)
    maps = feature.to(wide).flatten(2)
    # A product with ones and zeros: the gradient of selected rows has no fixed order on a GPU.
    alphas = (chosen / maps.shape[2]) @ weight.to(wide)
    return torch.bmm(alphas.unsqueeze(1), maps).squeeze(1).relu()


def activation_map_distance(teacher: ForwardResult, student: ForwardResult, labels: Tensor) -> Tensor:
    """Mean squared error, over images and positions, of the two networks' maps; 0-d.

    ``labels`` are [N] int64, or probabilities [N, classes].
    """
    found, logits = [], student.logits
    if labels.dim() == 1:
        labels = labels[:, None] == torch.arange(logits.shape[1], device=labels.device)
    chosen = labels.to(arithmetic_dtype(logits.dtype))
    for result in (teacher, student):
        assert result.classifier is not None  # a network that is followed for this has it
        found.append(class_activation_map(result.maps[0], result.classifier, chosen))
    return F.mse_loss(found[1], found[0])
