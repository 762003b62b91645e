"""Published methods, each a recipe: ``hast_cuda.methods.hast.recipe("paper", "cifar10")``."""

from __future__ import annotations

from collections.abc import Callable

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import check_choice
from hast_cuda.methods import (
    ait,
    dfq,
    dsg,
    dsg_il,
    gdfq,
    genie,
    hast,
    intraq,
    qimera,
    real_data,
    rtn,
    squant,
    synq,
    zeroq,
    zeroq_il,
)
from hast_cuda.methods.recipe import DATASETS, PRESETS, Recipe, change

__all__ = ["DATASETS", "PRESETS", "Recipe", "available", "change", "recipe"]
_STORED = hast, intraq, zeroq, zeroq_il, dsg, dsg_il, genie, synq
_METHODS = *_STORED, gdfq, qimera, ait, squant, dfq, rtn, real_data
_RECIPES: dict[str, Callable[..., Recipe]]
_RECIPES = {module.__name__.rpartition(".")[2]: module.recipe for module in _METHODS}


def available() -> tuple[str, ...]:
    """Names of the methods.

    Example:
        >>> available()[:3]
        ('hast', 'intraq', 'zeroq')
    """
    return tuple(_RECIPES)


@typed
def recipe(method: str = "hast", preset: str = "default", dataset: str = "cifar10") -> Recipe:
    """The recipe of a method.

    Args:
        method: one of :func:`available`.
        preset: "paper" (published hyper-parameters), "released" (what the published code does) or
            "default" (the method's losses under our training; HAST and real data have more of it
            than the others, see docs/methods.md).
        dataset: "cifar10" (small images, few classes), "cifar100" (small images, many classes) or
            "imagenet".

    Raises:
        ValueError: unknown method, preset or dataset.

    Example:
        >>> recipe("gdfq", "paper").finetune.batch_size
        200
    """
    check_choice("method", method, available())
    return _RECIPES[method](preset, dataset)
