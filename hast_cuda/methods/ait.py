"""AIT (Choi et al., CVPR 2022): KL only, and steps large enough to change integer codes."""

from __future__ import annotations

from dataclasses import replace

from hast_cuda.checks.values import check_choice
from hast_cuda.methods import gdfq, qimera
from hast_cuda.methods.recipe import Recipe, check_names

BASES = {"gdfq": gdfq.recipe, "qimera": qimera.recipe}


def recipe(preset: str = "default", dataset: str = "cifar10", base: str = "gdfq") -> Recipe:
    """No CE, no weight decay, gradient inundation on top of GDFQ or Qimera.

    Args:
        preset: "default", "paper" or "released".
        dataset: sets the threshold of changed codes, 1e-3 for small images, else 1e-4.
        base: "gdfq" or "qimera".

    Raises:
        ValueError: unknown preset, dataset or base.
    """
    check_names(preset, dataset)
    check_choice("base", base, tuple(BASES))
    found = BASES[base](preset, dataset)
    return replace(
        found,
        finetune=replace(
            found.finetune,
            label_weight=0.0,
            weight_decay=0.0,
            learning_rate=1e-4,
            flip_fraction=1e-4 if dataset == "imagenet" else 1e-3,
        ),
    )
