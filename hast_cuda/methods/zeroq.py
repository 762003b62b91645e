"""ZeroQ (Cai et al., CVPR 2020): ranges from distilled data, no fine-tuning."""

from __future__ import annotations

from dataclasses import replace

from hast_cuda.finetune import FinetuneConfig
from hast_cuda.methods import common
from hast_cuda.methods.recipe import Recipe, check_names
from hast_cuda.synthesis import SynthesisConfig


def recipe(preset: str = "default", dataset: str = "cifar10") -> Recipe:
    """Means and standard deviations matched, no labels; then rounding to nearest.

    "paper" matches the statistics of the batch from Gaussian noise; "released" those of each image
    from noise of +-0.0235.

    Raises:
        ValueError: unknown preset or dataset.
    """
    check_names(preset, dataset)
    synthesis = SynthesisConfig(
        num_images=64, batch_size=64, iterations=500, patience=100, label_weight=0.0,
        spread="std", match_reduction="sum", match_input=True,
    )  # fmt: skip
    if preset == "released":
        synthesis = replace(synthesis, noise="narrow", statistics="sample")
    tuning = FinetuneConfig(iterations=0, calibration_updates=1, calibration_batch_size=64)
    found = Recipe(synthesis, tuning)
    return common.ours(found) if preset == "default" else found
