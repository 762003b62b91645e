"""Images from a network that is trained beside the student (GDFQ, Qimera)."""

from __future__ import annotations

from hast_cuda.generator.config import GeneratorConfig
from hast_cuda.generator.trainer import GeneratorTrainer

__all__ = ["GeneratorConfig", "GeneratorTrainer"]
