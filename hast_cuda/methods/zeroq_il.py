"""ZeroQ+IL as the tables of IntraQ and HAST have it: ZeroQ's images with labels, KL + CE."""

from __future__ import annotations

from hast_cuda.methods import common
from hast_cuda.methods.recipe import Recipe, check_names
from hast_cuda.synthesis import SynthesisConfig


def recipe(preset: str = "default", dataset: str = "cifar10") -> Recipe:
    """Eq. 3 + Eq. 4 (gamma 0), then IntraQ's fine-tuning (Eq. 6).

    Raises:
        ValueError: unknown preset or dataset.
    """
    check_names(preset, dataset)
    synthesis = SynthesisConfig(
        difficulty_exponent=0.0, label_weight=0.1 if dataset == "imagenet" else 1.0
    )
    if preset == "released":
        return Recipe(synthesis, common.released_label_finetuning(dataset))
    paper = Recipe(synthesis, common.label_finetuning(dataset))
    return paper if preset == "paper" else common.ours(paper)
