"""The loss of fine-tuning: distillation and relaxed feature alignment (Eq. 6, 11-13)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from hast_cuda.finetune.config import FinetuneConfig
from hast_cuda.ops import attention_loss


def distillation_loss(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """``KL(softmax(t/T) || softmax(s/T))``, summed over classes, averaged over the batch.

    Args:
        teacher: logits [N, classes]; ``student`` likewise.
        temperature: T.

    Returns:
        0-d float32. Gradients flow to both.
    """
    return F.kl_div(
        F.log_softmax(student.float() / temperature, dim=1),
        F.log_softmax(teacher.float() / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )


def finetune_loss(
    config: FinetuneConfig, teacher: Tensor, student: Tensor,
    teacher_maps: Sequence[Tensor], student_maps: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(alpha * T^2 * KL, lambda * sum over maps of Eq. 13): the two terms of Eq. 12."""
    scale = config.distillation_weight * config.temperature**2
    distillation = scale * distillation_loss(teacher, student, config.temperature)
    if not config.feature_weight:
        return distillation, distillation.new_zeros(())
    alignment = config.feature_weight * attention_loss(
        teacher_maps, student_maps, normalized=config.normalized_attention
    )
    return distillation, alignment
