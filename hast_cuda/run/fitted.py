"""What the parts of a run take, and which numbers fit a time: arithmetic, no clock.

One level says how much of everything there is. At a level every phase has its share of it in seconds,
which are so many iterations, between a floor and what the recipe has; the level is the highest at
which all phases, with what cannot be chosen, take no longer than the budget. So more time never
makes a number smaller, and what a phase at its end leaves over goes to the others.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from hast_cuda.data import InputSpec
from hast_cuda.finetune.agreement import CROPS
from hast_cuda.finetune.batches import held_out_count
from hast_cuda.methods import Recipe, change
from hast_cuda.methods.budget import LOOKS, SMALL, UPDATES
from hast_cuda.nn.calibrate import SEARCH_IMAGES

IMAGES, ITERATIONS = "synthesis.num_images", "synthesis.iterations"
BLOCKS, STEPS = "reconstruction.iterations", "finetune.iterations"
BATCH = "synthesis.batch_size"
LEAST = {IMAGES: 64, ITERATIONS: 50, BLOCKS: 50, STEPS: 25}
"""Below these a phase does more harm than good."""
SHARES = {"synthesis": 0.55, "reconstruction": 0.15, "finetune": 0.3}
"""About what the budget "small" takes of its time for each on ResNet-20 with images of CIFAR."""
PIXELS = 2**21  # of the images that are made together: 256 of CIFAR's are fewer, 32 of ImageNet's too
SEEN = 2**20  # of those that the student sees together: 16 of ImageNet's


def free_numbers(recipe: Recipe, sizes: Sizes, fixed: Collection[str] = ()) -> list[str]:
    """The numbers that a budget may choose and that count for ``recipe``, without those ``fixed``."""
    found = [IMAGES, ITERATIONS] if recipe.images == "synthetic" and sizes.given is None else []
    if sizes.student:
        found += [BLOCKS] if recipe.reconstruction.iterations else []
        found += [STEPS] if recipe.finetune.iterations else []
    return [name for name in found if name not in fixed]


def value_of(recipe: Recipe, name: str) -> Any:
    """What ``recipe`` has under a dotted name."""
    section, _, field = name.partition(".")
    return getattr(getattr(recipe, section), field)


def images_of(pixels: int, shape: InputSpec) -> int:
    """About so many images have ``pixels``: a power of two, 16 or more."""
    exponent = int(math.log2(pixels / (shape.height * shape.width)))
    return int(2 ** max(4, exponent))


def with_small_batches(recipe: Recipe, shape: InputSpec, fixed: Collection[str]) -> Recipe:
    """``recipe`` with what a time budget sets before anything is measured, but for what is ``fixed``.

    Updates of the ranges, looks at the student and a generator's warm-up are those of "small", and so
    are the student's batches, of at most :data:`SEEN` pixels; batches of images have :data:`PIXELS` at most.
    """
    student = min(SMALL["batch"], images_of(SEEN, shape))
    limits = {
        BATCH: images_of(PIXELS, shape),
        "finetune.batch_size": student,
        "finetune.calibration_batch_size": student,
        "reconstruction.batch_size": student,
        "finetune.calibration_updates": UPDATES,
        "finetune.evaluations": LOOKS,
        "generator.warmup": SMALL["warmup"],
    }
    return change(recipe, {n: min(value_of(recipe, n), limit) for n, limit in limits.items() if n not in fixed})


@dataclass(frozen=True)
class Fit:
    """The rule for one recipe on one device."""

    full: Recipe
    """As it is without a budget."""
    recipe: Recipe
    """With its batches as they will be: :func:`with_small_batches`."""
    costs: Costs
    sizes: Sizes
    fixed: Collection[str] = ()
    """Numbers that stay."""

    def seconds(self, level: float) -> float:
        """At most, of the whole run at ``level``."""
        return sum(self.costs.seconds(change(self.recipe, self.numbers(level)), self.sizes, bound=True).values())

    def least(self) -> float:
        """Seconds of the smallest run."""
        return self.seconds(0.0)

    def numbers(self, level: float) -> dict[str, int]:
        """By dotted name, of the seconds ``level`` for all that is free."""
        free = free_numbers(self.recipe, self.sizes, self.fixed)
        parts = {name.partition(".")[0] for name in free}
        whole = sum(SHARES[part] for part in parts)
        found: dict[str, int] = {}
        if "synthesis" in parts:
            found |= self._images(self._steps(level * SHARES["synthesis"] / whole, self.costs.synthesis), free)
        for part, name, each in (
            ("reconstruction", BLOCKS, sum(self.costs.blocks)),
            ("finetune", STEPS, self.recipe.finetune.batch_size * self.costs.finetune),
        ):
            if part in parts:
                low, high = self._bounds(name, free)
                found[name] = int(_within(low, self._steps(level * SHARES[part] / whole, each), high))
        return found

    def _steps(self, seconds: float, each: float) -> float:
        return seconds * self.sizes.ranks / each if each > 0 else math.inf

    def _bounds(self, name: str, free: Collection[str]) -> tuple[int, int]:
        most = value_of(self.recipe, name)
        return (min(LEAST[name], most), most) if name in free else (most, most)

    def _images(self, work: float, free: Collection[str]) -> dict[str, int]:
        """Images and iterations whose product is ``work``, in the ratio that "small" has them."""
        (few, many), (short, long) = (self._bounds(name, free) for name in (IMAGES, ITERATIONS))
        root = math.sqrt(work / (SMALL["images"] * SMALL["synthesis"]))
        images = max(min(SMALL["images"] * root, work / short), work / long)
        iterations = max(min(SMALL["synthesis"] * root, work / few), work / many)
        count = int(_within(few, images, many))
        found = {IMAGES: count, ITERATIONS: int(_within(short, iterations, long))}
        size = value_of(self.recipe, BATCH)
        if BATCH not in self.fixed:  # batches of one size: a small last one would match the statistics badly
            found[BATCH] = -(-count // -(-count // size))
        return {name: n for name, n in found.items() if name not in self.fixed}

    def within(self, seconds: float) -> Recipe:
        """The largest run of at most ``seconds``; the full recipe if that fits, ValueError if nothing does."""
        if sum(self.costs.seconds(self.full, self.sizes, bound=True).values()) <= seconds:
            return self.full
        return change(self.recipe, self._largest(seconds))

    def _largest(self, seconds: float) -> dict[str, int]:
        if self.least() > seconds:
            raise ValueError(f"the smallest run takes {self.least():.1f} s, more than {seconds:.1f}")
        low, high = 0.0, max(seconds, 1.0)
        while self.seconds(high) <= seconds:
            if self.numbers(high) == self.numbers(math.inf):
                return self.numbers(high)
            low, high = high, 2 * high
        while low < (middle := (low + high) / 2) < high:  # down to neighbouring floats
            low, high = (middle, high) if self.seconds(middle) <= seconds else (low, middle)
        return self.numbers(low)


def _within(low: int, value: float, high: int) -> float:
    return max(low, min(value, high))


def rounded_up(seconds: float) -> str:
    """A budget of at least a tenth more: what is measured again is never quite the same."""
    wanted = seconds * 1.1
    for unit, each in (("s", 1), ("m", 60), ("h", 3600)):
        if wanted <= 99 * each or unit == "h":
            return f"{max(1, math.ceil(wanted / each))}{unit}"
    raise AssertionError


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
