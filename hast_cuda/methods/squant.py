"""SQuant (Guo et al., ICLR 2022): rounding that balances the errors of kernels and channels."""

from __future__ import annotations

from hast_cuda.methods import training_free
from hast_cuda.methods.recipe import Recipe
from hast_cuda.posttraining import PostTrainingConfig


def recipe(preset: str = "default", dataset: str = "cifar10") -> Recipe:
    """Flipped rounding of the weights; activation ranges from BatchNorm parameters; no images.

    "released" finds ranges of 12 standard deviations; the published code finds those from random
    images, which is data of another kind than this package accepts, so BatchNorm stands in for it.

    Raises:
        ValueError: unknown preset or dataset.
    """
    width = 12.0 if preset == "released" else 0.0
    return training_free.recipe(
        PostTrainingConfig(rounding="squant", range_width=width), preset, dataset
    )
