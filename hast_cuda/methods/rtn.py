"""Round to nearest: min-max weights and, without any image, ranges from BatchNorm parameters."""

from __future__ import annotations

from hast_cuda.methods import common
from hast_cuda.methods.recipe import Recipe, method


@method
def recipe(preset: str = "default", dataset: str = "cifar10") -> Recipe:  # noqa: ARG001
    """Weights rounded to nearest, ranges of 6 standard deviations ("default": fewer for few bits)."""
    return common.training_free(narrow_ranges=preset == "default")
