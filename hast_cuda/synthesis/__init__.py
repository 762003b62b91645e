"""Images optimised from noise, from a teacher alone."""

from __future__ import annotations

from hast_cuda.checks.moved import moved_names
from hast_cuda.synthesis.config import SynthesisConfig
from hast_cuda.synthesis.intra_class import margin_loss as margin_loss
from hast_cuda.synthesis.loop import synthesize
from hast_cuda.synthesis.objective import difficulty as difficulty
from hast_cuda.synthesis.objective import soft_label_loss as soft_label_loss
from hast_cuda.synthesis.store import ImageStore

__all__ = ["ImageStore", "SynthesisConfig", "synthesize"]

__getattr__ = moved_names(
    __name__,
    {
        "GeneratorConfig": "hast_cuda.generator",
        "GeneratorTrainer": "hast_cuda.generator",
        "ImageShape": "hast_cuda.data.InputSpec",
        "SyntheticImages": "hast_cuda.data.Images",
    },
)
