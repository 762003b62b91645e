"""ZeroQ (Cai et al., CVPR 2020): ranges from distilled data, no fine-tuning."""

from __future__ import annotations

from dataclasses import replace

from hast_cuda.methods import common
from hast_cuda.methods.recipe import Recipe, method
from hast_cuda.synthesis import SynthesisConfig


@method
def recipe(preset: str = "default", dataset: str = "cifar10") -> Recipe:  # noqa: ARG001
    """Means and standard deviations matched, no labels; then rounding to nearest.

    "paper" matches the statistics of the batch from Gaussian noise; "released" those of each image
    from noise of +-0.0235.
    """
    synthesis = SynthesisConfig(num_images=64, batch_size=64, iterations=500, patience=100)
    synthesis = replace(synthesis, spread="std", match_reduction="sum", match_input=True)
    if preset == "released":
        synthesis = replace(synthesis, noise="narrow", statistics="sample")
    return common.calibrated(replace(synthesis, label_weight=0.0), preset)
