"""The loss of fine-tuning: distillation and relaxed feature alignment (Eq. 6, 11-13)."""

from __future__ import annotations

from torch import Tensor

from hast_cuda.finetune.config import FinetuneConfig
from hast_cuda.finetune.features import Seen
from hast_cuda.ops import attention_energy_loss, distillation_loss

__all__ = ["distillation_loss", "loss_terms", "loss_weights"]


def loss_weights(config: FinetuneConfig) -> tuple[float, float]:
    """(alpha * T^2, lambda): what the two terms of Eq. 12 are multiplied by."""
    return config.distillation_weight * config.temperature**2, config.feature_weight


def loss_terms(config: FinetuneConfig, teacher: Seen, student: Seen) -> tuple[Tensor, Tensor]:
    """(KL, sum over layers of Eq. 13), without their weights; the second is 0 without layers."""
    distillation = distillation_loss(teacher.logits, student.logits, config.temperature)
    if not student.energies:
        return distillation, distillation.new_zeros(())
    return distillation, attention_energy_loss(
        teacher.energies, student.energies, student.positions,
        normalized=config.normalized_attention,
    )  # fmt: skip
