"""DSG+IL as the tables of IntraQ and HAST have it: DSG's loss and labels, then KL + CE."""

from __future__ import annotations

from hast_cuda.methods import common
from hast_cuda.methods.dsg import SLACK
from hast_cuda.methods.recipe import Recipe, check_names
from hast_cuda.synthesis import SynthesisConfig


def recipe(preset: str = "default", dataset: str = "cifar10") -> Recipe:
    """DSG's slack and emphasis on Eq. 3 + Eq. 4, then IntraQ's fine-tuning (Eq. 6).

    IntraQ's authors wrote DSG's loss into their own pipeline and published no code for it: the
    statistics are those of each image, as emphasis needs, averaged like Eq. 3.

    Raises:
        ValueError: unknown preset or dataset.
    """
    check_names(preset, dataset)
    synthesis = SynthesisConfig(
        difficulty_exponent=0.0, label_weight=0.1 if dataset == "imagenet" else 1.0,
        statistics="sample", slack_percentile=SLACK, layer_emphasis=1.0,
    )  # fmt: skip
    if preset == "released":
        return Recipe(synthesis, common.released_label_finetuning(dataset))
    paper = Recipe(synthesis, common.label_finetuning(dataset))
    return paper if preset == "paper" else common.ours(paper)
