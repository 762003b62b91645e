"""The student's training on synthetic images."""

from __future__ import annotations

from hast_cuda.checks.moved import moved_names
from hast_cuda.finetune.agreement import Agreement, agreement, output_noise
from hast_cuda.finetune.config import FinetuneConfig
from hast_cuda.finetune.loop import FinetuneResult, finetune
from hast_cuda.ops import distillation_loss as distillation_loss

__all__ = ["Agreement", "FinetuneConfig", "FinetuneResult", "agreement", "finetune", "output_noise"]

__getattr__ = moved_names(__name__, {"feature_layers": "hast_cuda.networks"})
