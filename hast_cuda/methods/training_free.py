"""What methods without images and training share."""

from __future__ import annotations

from hast_cuda.finetune import FinetuneConfig
from hast_cuda.methods.recipe import Recipe
from hast_cuda.posttraining import PostTrainingConfig
from hast_cuda.synthesis import SynthesisConfig


def recipe(posttraining: PostTrainingConfig) -> Recipe:
    """Only ``posttraining``, with activation ranges from BatchNorm parameters."""
    tuning = FinetuneConfig(iterations=0, calibration="batch_norm")
    return Recipe(SynthesisConfig(), tuning, posttraining=posttraining, images="none")
