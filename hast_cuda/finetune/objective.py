"""The loss of fine-tuning: distillation and relaxed feature alignment (Eq. 6, 11-13)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hast_cuda.finetune.config import FinetuneConfig
from hast_cuda.ops import attention_loss, distillation_loss

__all__ = ["distillation_loss", "finetune_loss"]


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
