"""ZeroQ+IL as the tables of IntraQ and HAST have it: ZeroQ's images with labels, KL + CE."""

from __future__ import annotations

from hast_cuda.methods import common
from hast_cuda.methods.recipe import Recipe, method
from hast_cuda.synthesis import SynthesisConfig


@method
def recipe(preset: str = "default", dataset: str = "cifar10") -> Recipe:
    """Eq. 3 + Eq. 4 (gamma 0), then IntraQ's fine-tuning (Eq. 6)."""
    weight = 0.1 if dataset == "imagenet" else 1.0
    synthesis = SynthesisConfig(difficulty_exponent=0.0, label_weight=weight)
    return common.with_labels(synthesis, preset, dataset)
