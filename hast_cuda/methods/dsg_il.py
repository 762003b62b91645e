"""DSG+IL as the tables of IntraQ and HAST have it: DSG's loss and labels, then KL + CE."""

from __future__ import annotations

from dataclasses import replace

from hast_cuda.methods import common, dsg
from hast_cuda.methods.recipe import Recipe, method


@method
def recipe(preset: str = "default", dataset: str = "cifar10") -> Recipe:
    """DSG's slack and emphasis on Eq. 3 + Eq. 4, then IntraQ's fine-tuning (Eq. 6).

    IntraQ's authors wrote DSG's loss into their own pipeline and published no code for it: the
    statistics are those of each image, as emphasis needs, averaged like Eq. 3.
    """
    weight = 0.1 if dataset == "imagenet" else 1.0
    synthesis = replace(dsg.OWN, difficulty_exponent=0.0, label_weight=weight)
    return common.with_labels(synthesis, preset, dataset)
