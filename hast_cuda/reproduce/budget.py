"""How much of a recipe is computed: the published budget, a small one, or a share."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from hast_cuda.methods import Recipe

# An evening's table on two cores; every method gets the same.
SMALL = {"images": 512, "synthesis": 150, "finetune": 150, "batch": 64, "warmup": 100}


def apply_budget(recipe: Recipe, budget: str) -> Recipe:
    """``recipe`` at a budget.

    Args:
        recipe: of a method, at its published budget.
        budget: "full" leaves it; "small" sets images, iterations and batch size to those of
            :data:`SMALL` where they are larger, the same for every method; "N%" scales images and
            iterations.

    Raises:
        ValueError: another text.
    """
    if budget == "full":
        return recipe
    if budget == "small":
        return _limited(recipe)
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%", budget)
    if not match or not 0 < float(match.group(1)) <= 100:
        message = f'budget is {budget!r}; allowed: "full", "small", or a share such as "10%"'
        raise ValueError(message)
    return _scaled(recipe, float(match.group(1)) / 100)


def _limited(recipe: Recipe) -> Recipe:
    made, tuned = recipe.synthesis, recipe.finetune
    return dataclasses.replace(
        recipe,
        synthesis=dataclasses.replace(
            made,
            num_images=min(made.num_images, SMALL["images"]),
            iterations=min(made.iterations, SMALL["synthesis"]),
        ),
        finetune=dataclasses.replace(
            tuned,
            iterations=min(tuned.iterations, SMALL["finetune"]),
            batch_size=min(tuned.batch_size, SMALL["batch"]),
            calibration_updates=min(tuned.calibration_updates, 50),
            evaluations=2,
        ),
        generator=dataclasses.replace(
            recipe.generator, warmup=min(recipe.generator.warmup, SMALL["warmup"])
        ),
    )


def _scaled(recipe: Recipe, share: float) -> Recipe:
    def part(count: int) -> int:
        return max(1, round(count * share)) if count else 0

    made, tuned, network = recipe.synthesis, recipe.finetune, recipe.generator
    return dataclasses.replace(
        recipe,
        synthesis=dataclasses.replace(
            made, num_images=part(made.num_images), iterations=part(made.iterations)
        ),
        finetune=dataclasses.replace(tuned, iterations=part(tuned.iterations)),
        generator=dataclasses.replace(network, warmup=part(network.warmup)),
    )


def change(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """``recipe`` with values replaced by dotted name, e.g. {"finetune.perturbation": 0.0}."""
    for name, value in changes.items():
        section, _, field = name.partition(".")
        part = dataclasses.replace(getattr(recipe, section), **{field: value})
        recipe = dataclasses.replace(recipe, **{section: part})
    return recipe
