"""DFQ (Nagel et al., ICCV 2019): equalized weights, absorbed and corrected biases."""

from __future__ import annotations

from hast_cuda.methods import common
from hast_cuda.methods.recipe import Recipe, method


@method
def recipe(preset: str = "default", dataset: str = "cifar10") -> Recipe:  # noqa: ARG001
    """BatchNorm folded, ranges of weights equalized across layers, biases corrected; no images.

    "paper" and "released" replace ReLU6 and take ranges of 6 standard deviations; "default" keeps
    ReLU6 and takes fewer for few bits.
    """
    ours = preset == "default"
    choices = {"keep_relu6": ours, "narrow_ranges": ours}
    steps = "fold", "equalize", "absorb_biases", "correct_biases"
    return common.training_free(**dict.fromkeys(steps, True), **choices)
