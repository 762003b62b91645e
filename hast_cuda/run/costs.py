"""What the parts of a run take, and from that what a recipe takes: arithmetic, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hast_cuda.finetune.agreement import CROPS
from hast_cuda.finetune.batches import held_out_count
from hast_cuda.methods import Recipe
from hast_cuda.nn.calibrate import SEARCH_IMAGES

PHASES = ("synthesis", "calibration", "range search", "reconstruction", "finetuning", "evaluation")


@dataclass(frozen=True)
class Sizes:
    """What a run works on, beside its recipe."""

    given: int | None = None
    """Images that it does not make; None: it makes its own."""
    test: int = 0
    """Test images."""
    ranks: int = 1
    """Processes."""
    student: bool = True
    """False: images are all that is made."""

    def images(self, recipe: Recipe) -> int:
        """Stored images of the run."""
        if self.given is not None:
            return self.given
        return recipe.synthesis.num_images if recipe.images == "synthetic" else 0


@dataclass(frozen=True)
class Costs:
    """Seconds on one device; what a network does not need costs nothing."""

    synthesis: float = 0.0
    """Of an image in one iteration of its batch."""
    original: float = 0.0
    """Of an image's pass through the full-precision network, in an evaluation."""
    student: float = 0.0
    """The same through the quantized one."""
    calibration: float = 0.0
    """Of an image in an update of the ranges."""
    range_search: float = 0.0
    """Of an image."""
    generator: float = 0.0
    """Of a step of the generator that trains beside the student."""
    blocks: tuple[float, ...] = ()
    """Of a step of each block that is reconstructed."""
    finetune: float = 0.0
    """Of an image in a step of the student."""
    setup: Mapping[str, float] = field(default_factory=dict)
    """What a phase takes once, whatever its numbers."""

    def seconds(self, recipe: Recipe, sizes: Sizes, *, bound: bool = False) -> dict[str, float]:
        """Of every phase that ``recipe`` has, by the names that ``result.json`` has too.

        A ``bound`` is at least that and grows with every number: each batch counts as a whole one.
        """
        count, tuning = sizes.images(recipe), recipe.finetune
        found = dict.fromkeys(PHASES, 0.0)
        if sizes.given is None and recipe.images == "synthetic":
            found["synthesis"] = count * recipe.synthesis.iterations * self.synthesis / sizes.ranks
        if sizes.student:
            held = held_out_count(count, tuning.held_out)
            found |= self._before_training(recipe, count)
            found["reconstruction"] = self._reconstruction(recipe, count - held) / sizes.ranks
            found["finetuning"] = self._finetuning(recipe, count - held, held, sizes, bound=bound)
            students = 1 + tuning.shrink_ranges + bool(recipe.reconstruction.iterations and count)
            found["evaluation"] = sizes.test * (self.original + students * self.student)
        return {name: own + self.setup.get(name, 0.0) for name, own in found.items() if own}

    def _before_training(self, recipe: Recipe, count: int) -> dict[str, float]:
        tuning, found = recipe.finetune, {}
        if recipe.images == "generated":
            found["calibration"] = recipe.generator.warmup * self.generator
        elif tuning.calibration != "batch_norm":
            size = tuning.calibration_batch_size
            found["calibration"] = tuning.calibration_updates * (min(size, count) if count else size) * self.calibration
        if tuning.shrink_ranges:
            found["range search"] = min(SEARCH_IMAGES, count or SEARCH_IMAGES) * self.range_search
        return found

    def _reconstruction(self, recipe: Recipe, train: int) -> float:
        config = recipe.reconstruction
        if not config.iterations or not train:
            return 0.0
        steps = config.iterations * min(1.0, train / config.batch_size) * sum(self.blocks)
        return steps + self.passes(train)

    def passes(self, train: int) -> float:
        """All images through all blocks, to have their maps and errors: twice exact, three times quantized."""
        return train * (2 * self.original + 3 * self.student)

    def looks(self, looks: int, held: int) -> float:
        """The student, and once the original, on the images held out and on parts of them."""
        return held * (1 + CROPS) * (looks * self.student + self.original)

    def _finetuning(self, recipe: Recipe, train: int, held: int, sizes: Sizes, *, bound: bool) -> float:
        tuning, size = recipe.finetune, float(recipe.finetune.batch_size)
        if not tuning.iterations or (recipe.images != "generated" and not train):
            return 0.0
        looks = tuning.evaluations
        if not bound:
            looks = -(-tuning.iterations // max(1, -(-tuning.iterations // looks)))
        if train:
            size = min(size, train) if bound else train / -(-train // tuning.batch_size)
        steps = tuning.iterations * size * self.finetune / sizes.ranks
        return steps + self.looks(looks + 1, held) + looks * sizes.test * self.student
