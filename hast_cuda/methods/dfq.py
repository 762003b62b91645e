"""DFQ (Nagel et al., ICCV 2019): equalized weights, absorbed and corrected biases."""

from __future__ import annotations

from hast_cuda.methods import training_free
from hast_cuda.methods.recipe import Recipe, check_names
from hast_cuda.posttraining import PostTrainingConfig


def recipe(preset: str = "default", dataset: str = "cifar10") -> Recipe:
    """BatchNorm folded, ranges of weights equalized across layers, biases corrected; no images.

    "paper" and "released" replace ReLU6 and take ranges of 6 standard deviations; "default" keeps
    ReLU6 and takes 4.

    Raises:
        ValueError: unknown preset or dataset.
    """
    check_names(preset, dataset)
    published = preset != "default"
    return training_free.recipe(
        PostTrainingConfig(
            fold=True, equalize=True, absorb_biases=True, correct_biases=True,
            keep_relu6=not published, range_width=6.0 if published else 4.0,
        )
    )  # fmt: skip
