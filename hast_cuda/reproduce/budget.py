"""How much of a recipe is computed: the published budget, a small one, or a share."""

from __future__ import annotations

import re

from hast_cuda.methods import Recipe, change

# An evening's table on two cores; every method gets the same.
SMALL = {"images": 512, "synthesis": 150, "reconstruction": 300, "finetune": 150, "batch": 64, "warmup": 100}


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
        raise ValueError(f'budget is {budget!r}; allowed: "full", "small", or a share such as "10%"')
    return _scaled(recipe, float(match.group(1)) / 100)


def _limited(recipe: Recipe) -> Recipe:
    made, tuned = recipe.synthesis, recipe.finetune
    return change(
        recipe,
        {
            "synthesis.num_images": min(made.num_images, SMALL["images"]),
            "synthesis.iterations": min(made.iterations, SMALL["synthesis"]),
            "reconstruction.iterations": min(recipe.reconstruction.iterations, SMALL["reconstruction"]),
            "finetune.iterations": min(tuned.iterations, SMALL["finetune"]),
            "finetune.batch_size": min(tuned.batch_size, SMALL["batch"]),
            "finetune.calibration_updates": min(tuned.calibration_updates, 50),
            "finetune.evaluations": 5,
            "generator.warmup": min(recipe.generator.warmup, SMALL["warmup"]),
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
