"""Fine-tuning on real training images: the upper reference of the paper's tables."""

from __future__ import annotations

from hast_cuda.methods import common
from hast_cuda.methods.recipe import Recipe, method
from hast_cuda.synthesis import SynthesisConfig


@method
def recipe(preset: str = "default", dataset: str = "cifar10") -> Recipe:
    """IntraQ's fine-tuning (KL + CE, Eq. 6) on images that the user gives, with their labels.

    The sources of these rows document nothing about them. Chosen here: the same losses, steps and
    crops as for synthetic images, ranges calibrated on the real ones, teacher's input
    normalisation, as many images as are given.
    """
    paper = Recipe(SynthesisConfig(), common.label_finetuning(dataset), images="real")
    return common.ours(paper) if preset == "default" else paper
