"""The student's training on synthetic images."""

from __future__ import annotations

from hast_cuda.finetune.config import FinetuneConfig
from hast_cuda.finetune.features import feature_layers
from hast_cuda.finetune.loop import FinetuneResult, finetune
from hast_cuda.finetune.objective import distillation_loss

__all__ = ["FinetuneConfig", "FinetuneResult", "distillation_loss", "feature_layers", "finetune"]
