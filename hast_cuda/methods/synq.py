"""SynQ (Kim et al., ICLR 2025): filtered images, aligned class activation maps, labels of easy images."""

from __future__ import annotations

from dataclasses import replace

from hast_cuda.methods import common, zeroq_il
from hast_cuda.methods.recipe import Recipe, method

# The middle of the ranges that the paper searches: D0 of 20 to 100, tau of 0.5 to 0.7, the weights
# of cross entropy (0.005 to 5) and of class activation maps (20 to 2,000).
CUTOFF, THRESHOLD, LABELS, MAPS = 60, 0.6, 0.5, 200.0
SIDES = {"cifar10": 32, "cifar100": 32, "imagenet": 224}  # of the images that D0 is for
EPOCHS = 100  # of 200 steps, as IntraQ and HAST count them


@method
def recipe(preset: str = "default", dataset: str = "cifar10") -> Recipe:
    """ZeroQ+IL's images (Eq. 3 + Eq. 4) through a low-pass filter; KL, CE of easy images, CAM.

    "released" is "paper": the published code is for research only and was not read.
    """
    synthesis = zeroq_il.recipe("paper", dataset).synthesis
    tuning = replace(common.label_finetuning(dataset), label_weight=LABELS, label_difficulty=THRESHOLD)
    tuning = replace(tuning, alignment="cam", feature_weight=MAPS, low_pass=CUTOFF / SIDES[dataset])
    if preset == "default":
        return common.ours(Recipe(synthesis, tuning))
    return Recipe(synthesis, replace(tuning, iterations=EPOCHS * 200))
