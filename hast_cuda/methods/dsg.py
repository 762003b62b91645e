"""DSG (Zhang et al., CVPR 2021): ZeroQ with slack and layer-wise emphasis; no fine-tuning."""

from __future__ import annotations

from dataclasses import replace

from hast_cuda.finetune import FinetuneConfig
from hast_cuda.methods import common
from hast_cuda.methods.recipe import Recipe, check_names
from hast_cuda.synthesis import SynthesisConfig

SLACK = 0.9  # the paper's percentile


def recipe(preset: str = "default", dataset: str = "cifar10") -> Recipe:
    """Statistics of each image, deviations within the slack free, image i on layer i twice.

    "released" starts from uniform noise and adds the cross entropy as its code does; that code's
    correlation, total-variation and norm terms have no gradient or a weight of 0.01, and are left
    out.

    Raises:
        ValueError: unknown preset or dataset.
    """
    check_names(preset, dataset)
    synthesis = SynthesisConfig(
        num_images=40, batch_size=40, iterations=500, learning_rate=0.9, patience=260,
        label_weight=0.0, statistics="sample", spread="std", match_reduction="sum",
        match_input=True, slack_percentile=SLACK, layer_emphasis=1.0,
    )  # fmt: skip
    if preset == "released":
        # its code doubles the deviation, so quadruples the loss
        synthesis = replace(
            synthesis, noise="uniform", layer_emphasis=3.0, label_weight=2.0,
            difficulty_exponent=0.0,
        )  # fmt: skip
    tuning = FinetuneConfig(iterations=0, calibration_updates=1, calibration_batch_size=40)
    found = Recipe(synthesis, tuning)
    return common.ours(found) if preset == "default" else found
