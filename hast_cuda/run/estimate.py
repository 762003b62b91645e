"""What a run will do and how long it takes, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hast_cuda.loops.progress import duration
from hast_cuda.methods import Recipe
from hast_cuda.nn.calibrate import SEARCH_IMAGES
from hast_cuda.run.fitted import Sizes
from hast_cuda.run.trial import Measured


@dataclass(frozen=True)
class Estimate:
    """Of a run on one device, by a few timed iterations of each of its phases.

    Example:
        >>> import hast_cuda as hc
        >>> teacher = hc.load_teacher("digits")
        >>> found = hc.run.estimate(teacher, (1, 8, 8), method="squant", budget="full")
        >>> list(found.seconds), found.total > 0
        ([], False)
    """

    recipe: Recipe
    """With the numbers of the budget."""
    budget: str | None
    """As it was given or chosen; None: all numbers were given."""
    device: str
    """Where the run would be."""
    seconds: dict[str, float]
    """Of every phase, by the names that ``result.json`` has."""
    blocks: int
    """That are reconstructed."""
    images: int
    """That the student is trained on, made or given."""
    test: int
    """Real images to report accuracy on."""
    memory: int
    """Peak in bytes, on the GPU if the run is there; 0: unknown."""
    note: str = ""
    """Why this budget, if nobody asked for it."""

    @property
    def total(self) -> float:
        """Seconds of all phases."""
        return sum(self.seconds.values())

    def __str__(self) -> str:
        """A line per phase, and the total."""
        head = "the numbers given" if self.budget is None else f"budget {self.budget}"
        rows = [(name, ", ".join(self._parts(name)), duration(taken)) for name, taken in self.seconds.items()]
        wide = [max((len(row[i]) for row in rows), default=0) for i in (0, 1)]
        lines = [f"  {name:<{wide[0]}}  {what:<{wide[1]}}  {taken:>7}" for name, what, taken in rows]
        memory = f", {self.memory / 2**30:.1f} GiB of memory" if self.memory else ""
        end = f"  about {duration(self.total)} in all{memory}"
        return "\n".join([*([self.note] if self.note else []), f"{head}, on {self.device}:", *lines, end])

    def _parts(self, phase: str) -> Iterator[str]:
        made, tuning = self.recipe.synthesis, self.recipe.finetune
        if phase == "synthesis":
            yield f"{made.num_images} images x {made.iterations} iterations"
            yield f"batches of {min(made.batch_size, made.num_images)}"
        elif phase == "calibration" and self.recipe.images == "generated":
            yield f"{self.recipe.generator.warmup} steps of the generator"
        elif phase == "calibration":
            yield f"{tuning.calibration_updates} updates of {tuning.calibration_batch_size} images"
        elif phase == "range search":
            yield f"{min(SEARCH_IMAGES, self.images or SEARCH_IMAGES)} images"
        elif phase == "reconstruction":
            yield f"{self.recipe.reconstruction.iterations} iterations in each of {self.blocks} blocks"
        elif phase == "finetuning":
            yield f"{tuning.iterations} steps of {tuning.batch_size} images"
            yield f"{tuning.evaluations} evaluations"
        elif phase == "evaluation":
            yield f"{self.test} test images"


def estimated(
    measured: Measured, recipe: Recipe, sizes: Sizes, *, budget: str | None, device: str, note: str = ""
) -> Estimate:
    """What ``recipe`` takes by what was measured."""
    return Estimate(
        recipe=recipe,
        budget=budget,
        device=device,
        seconds=measured.costs.seconds(recipe, sizes),
        blocks=len(measured.costs.blocks),
        images=sizes.images(recipe),
        test=sizes.test,
        memory=measured.memory(recipe, sizes),
        note=note,
    )
