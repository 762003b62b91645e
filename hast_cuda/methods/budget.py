"""How much of a recipe is computed: the published budget, a small one, a share, or what fits a time."""

from __future__ import annotations

import re

from hast_cuda.methods.recipe import Recipe, change

# An evening's table on two cores; every method gets the same. A photograph costs as much as fifty of CIFAR's images.
SMALL = {
    "images": 512,
    "together": 256,
    "synthesis": 150,
    "reconstruction": 300,
    "finetune": 150,
    "batch": 64,
    "warmup": 100,
}
SMALL_PHOTOGRAPHS = SMALL | {
    "images": 128,
    "together": 32,
    "synthesis": 100,
    "reconstruction": 150,
    "finetune": 60,
    "batch": 16,
}
UPDATES, LOOKS = 50, 5  # of the ranges, and at the student in training, at most, at a budget below the full one
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
MOST_SECONDS = 3.2e9  # a hundred years


def seconds_of(budget: str) -> float | None:
    """Seconds of a budget that is a time ("90s", "10m", "2h"), None of another; ValueError if it is none at all."""
    share = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)(%|[smhd])", budget)
    if budget in ("full", "small"):
        return None
    number = float(share[1]) if share else 0.0
    unit = share[2] if share else ""
    if (unit == "%" and 0 < number <= 100) or (unit in UNITS and 0 < number * UNITS[unit] <= MOST_SECONDS):
        return None if unit == "%" else number * UNITS[unit]
    raise ValueError(
        f'budget is {budget!r}; allowed: "full", "small", a share such as "10%", or a time such as "90s", "10m" or "2h"'
    )


def apply_budget(recipe: Recipe, budget: str, dataset: str = "cifar10") -> Recipe:
    """``recipe`` at a budget that needs no clock; ValueError: another text, or a time.

    "full" leaves it; "small" sets images, iterations and batch size to :data:`SMALL` where they are larger
    (:data:`SMALL_PHOTOGRAPHS` of "imagenet"), the same for every method; "N%" scales images and iterations.
    """
    if seconds_of(budget) is not None:
        raise ValueError(f'budget is {budget!r}, a time; allowed here: "full", "small", or a share such as "10%"')
    if budget == "full":
        return recipe
    limits = SMALL_PHOTOGRAPHS if dataset == "imagenet" else SMALL
    return _limited(recipe, limits) if budget == "small" else _scaled(recipe, float(budget[:-1]) / 100)


def _limited(recipe: Recipe, limits: dict[str, int]) -> Recipe:
    made, tuned = recipe.synthesis, recipe.finetune
    return change(
        recipe,
        {
            "synthesis.num_images": min(made.num_images, limits["images"]),
            "synthesis.batch_size": min(made.batch_size, limits["together"]),
            "synthesis.iterations": min(made.iterations, limits["synthesis"]),
            "reconstruction.iterations": min(recipe.reconstruction.iterations, limits["reconstruction"]),
            "finetune.iterations": min(tuned.iterations, limits["finetune"]),
            "finetune.batch_size": min(tuned.batch_size, limits["batch"]),
            "reconstruction.batch_size": min(recipe.reconstruction.batch_size, limits["batch"]),
            "finetune.calibration_batch_size": min(tuned.calibration_batch_size, limits["batch"]),
            "finetune.calibration_updates": min(tuned.calibration_updates, UPDATES),
            "finetune.evaluations": LOOKS,
            "generator.warmup": min(recipe.generator.warmup, limits["warmup"]),
        },
    )


def _scaled(recipe: Recipe, share: float) -> Recipe:
    counts = {
        "synthesis.num_images": recipe.synthesis.num_images,
        "synthesis.iterations": recipe.synthesis.iterations,
        "reconstruction.iterations": recipe.reconstruction.iterations,
        "finetune.iterations": recipe.finetune.iterations,
        "generator.warmup": recipe.generator.warmup,
    }
    return change(recipe, {name: max(1, round(n * share)) if n else 0 for name, n in counts.items()})
