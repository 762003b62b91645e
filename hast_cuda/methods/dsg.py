"""DSG (Zhang et al., CVPR 2021): ZeroQ with slack and layer-wise emphasis; no fine-tuning."""

from __future__ import annotations

from dataclasses import replace

from hast_cuda.methods import common
from hast_cuda.methods.recipe import Recipe, method
from hast_cuda.synthesis import SynthesisConfig

# statistics of each image, deviations within the paper's percentile free, image i on layer i twice
OWN = SynthesisConfig(statistics="sample", slack_percentile=0.9, layer_emphasis=1.0)


@method
def recipe(preset: str = "default", dataset: str = "cifar10") -> Recipe:  # noqa: ARG001
    """Statistics of each image, deviations within the slack free, image i on layer i twice.

    "released" starts from uniform noise and adds the cross entropy as its code does; that code's
    correlation, total-variation and norm terms have no gradient or a weight of 0.01, and are left
    out.
    """
    synthesis = replace(OWN, num_images=40, batch_size=40, iterations=500, learning_rate=0.9)
    synthesis = replace(synthesis, spread="std", match_reduction="sum", match_input=True)
    synthesis = replace(synthesis, label_weight=0.0, patience=260)
    if preset == "released":
        # its code doubles the deviation, so quadruples the loss
        synthesis = replace(synthesis, noise="uniform", layer_emphasis=3.0)
        synthesis = replace(synthesis, label_weight=2.0, difficulty_exponent=0.0)
    return common.calibrated(synthesis, preset)
