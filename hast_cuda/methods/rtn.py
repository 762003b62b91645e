"""Round to nearest: min-max weights and, without any image, ranges from BatchNorm parameters."""

from __future__ import annotations

from hast_cuda.methods import training_free
from hast_cuda.methods.recipe import Recipe, check_names
from hast_cuda.posttraining import PostTrainingConfig


def recipe(preset: str = "default", dataset: str = "cifar10") -> Recipe:
    """Weights rounded to nearest, ranges of 6 standard deviations ("default": 4).

    Raises:
        ValueError: unknown preset or dataset.
    """
    check_names(preset, dataset)
    width = 4.0 if preset == "default" else 6.0
    return training_free.recipe(PostTrainingConfig(range_width=width))
