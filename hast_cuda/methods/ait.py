"""AIT (Choi et al., CVPR 2022): KL only, and steps large enough to change integer codes."""

from __future__ import annotations

from dataclasses import replace

from hast_cuda.checks.values import check_choice
from hast_cuda.methods import gdfq, qimera
from hast_cuda.methods.recipe import Recipe, method

BASES = {"gdfq": gdfq.recipe, "qimera": qimera.recipe}


@method
def recipe(preset: str = "default", dataset: str = "cifar10", base: str = "gdfq") -> Recipe:
    """No CE, no weight decay, gradient inundation on top of GDFQ or Qimera, the ``base``.

    The fraction of codes to change is 1e-3 for small images, else 1e-4.
    """
    check_choice("base", base, tuple(BASES))
    found, flips = BASES[base](preset, dataset), 1e-4 if dataset == "imagenet" else 1e-3
    tuning = replace(found.finetune, label_weight=0.0, weight_decay=0.0)
    tuning = replace(tuning, learning_rate=1e-4, flip_fraction=flips)
    return replace(found, finetune=tuning)
