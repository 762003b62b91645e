"""A few iterations of every phase of a run, timed: what its parts cost on this device."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.data import Images, ImageSet, evaluate
from hast_cuda.finetune.batches import held_out_count
from hast_cuda.loops.execution import convolution_rules
from hast_cuda.loops.modes import eval_mode, frozen_copy, hooked
from hast_cuda.loops.progress import progress_shown
from hast_cuda.methods import Recipe, change
from hast_cuda.networks.outputs import gathered
from hast_cuda.nn.calibrate import SEARCH_IMAGES
from hast_cuda.ranks import World
from hast_cuda.run.fitted import SEEN, Costs, Sizes, images_of
from hast_cuda.run.inputs import Asked
from hast_cuda.run.work import Work
from hast_cuda.synthesis import synthesize

SAMPLE = 64  # images of an evaluation, at most
PASSES = 2  # of them, timed
UPDATES = 4  # of the ranges, and of a generator before the student
WORTH = 2.0  # seconds of iterations to time, about
FEWEST, MOST = 3, 20  # iterations
SYNTHESIS, TRAINING = 4, 12  # what an iteration takes in passes, about: only decides how many are timed
KEPT_MAPS = 5  # of every image: what two blocks give, what they are given, what comes next


@dataclass(frozen=True)
class Measured:
    """By a trial of a recipe."""

    costs: Costs
    peak: int
    """Bytes that the trial took."""
    image: int
    """Bytes of an image."""
    maps: int
    """Bytes of an image's maps in reconstruction."""

    def memory(self, recipe: Recipe, sizes: Sizes) -> int:
        """Bytes of a run, about: those of the trial, and what grows with the images."""
        count = sizes.images(recipe)
        maps = count * self.maps if recipe.reconstruction.iterations and sizes.student else 0
        return self.peak + count * self.image + min(maps, recipe.reconstruction.map_memory)


class Stopwatch:
    """Notes when the steps of loops were done."""

    def __init__(self, device: torch.device, counts: dict[str, tuple[int, int]]) -> None:
        """``counts``: of every loop, how many steps are timed, of how many."""
        self.device, self.counts = device, counts
        self.ticks: dict[str, list[float]] = defaultdict(list)

    def __call__(self, name: str) -> None:
        """A step of a loop is done; only where the timed ones begin and end it is waited for."""
        if name in self.counts:
            steps, of = self.counts[name]
            waits = (len(self.ticks[name]) + 1) % of in (0, of - steps)
            self.ticks[name].append(now(self.device) if waits else time.perf_counter())

    def steps(self, name: str) -> list[float]:
        """Seconds of a step, for each time that the loop ran, or block that it had."""
        steps, of = self.counts[name]
        ends = self.ticks[name][of - 1 :: of]
        starts = self.ticks[name][of - 1 - steps :: of]
        return [(end - start) / steps for start, end in zip(starts, ends, strict=False)]


def now(device: torch.device) -> float:
    """Seconds on a monotonic clock, with all work done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure(asked: Asked, recipe: Recipe, sizes: Sizes) -> Measured:
    """Time a small run of ``asked`` in memory, with the batches of ``recipe``.

    Every phase runs on as many images as one of its batches has; nothing is written or kept.
    """
    device = asked.world.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with progress_shown(False), convolution_rules(asked.execution):
        trial = _Trial(replace(asked, world=World(device=device), out=None, test=None), recipe, asked.test)
        with progress_shown(trial.watch):
            costs = trial.costs(student=sizes.student)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident_peak()
    image = 4 * asked.shape.channels * asked.shape.height * asked.shape.width
    return Measured(costs, peak, image, KEPT_MAPS * _largest_map(asked))


class _Trial:
    def __init__(self, asked: Asked, recipe: Recipe, test: ImageSet | None) -> None:
        self.asked, self.device = asked, asked.world.device
        self.sample = _sample(asked, test)
        self.original = self._pass(asked.teacher)
        warm = 2 if self.device.type == "cpu" else 6  # a CUDA graph is captured in the fourth
        tuning, made = recipe.finetune, recipe.synthesis
        self.size = min(made.batch_size, made.num_images)
        timed = {
            "synthesis": self._worth(SYNTHESIS * self.size),
            "reconstruction": FEWEST,
            "fine-tuning": self._worth(TRAINING * tuning.batch_size),
        }
        self.count = {name: warm + steps for name, steps in timed.items()}
        self.watch = Stopwatch(self.device, {name: (steps, warm + steps) for name, steps in timed.items()})
        numbers = {
            "synthesis.num_images": self.size,
            "synthesis.iterations": self.count["synthesis"],
            "reconstruction.iterations": self.count["reconstruction"] if recipe.reconstruction.iterations else 0,
            "finetune.iterations": self.count["fine-tuning"] if tuning.iterations else 0,
            "finetune.calibration_updates": UPDATES,
            "finetune.evaluations": 1,
            "finetune.restarts": 0,
            "generator.warmup": UPDATES,
        }
        self.recipe = change(recipe, numbers)

    def _pass(self, network: nn.Module) -> float:
        """Seconds of an image in an evaluation."""
        size, began = min(len(self.sample), self.asked.evaluation_batch), 0.0
        if not self.asked.shape.num_classes:  # evaluate() puts the network back where it was
            network = frozen_copy(network, self.device)
        for again in range(1 + PASSES):
            if again == 1:  # the first one allocates
                began = now(self.device)
            if self.asked.shape.num_classes:
                evaluate(network, self.sample, batch_size=size, device=self.device)
            else:
                gathered(network, self.sample.images.to(self.device))  # type: ignore[union-attr]
        return (now(self.device) - began) / (PASSES * len(self.sample))

    def _worth(self, passes: int) -> int:
        return max(FEWEST, min(MOST, int(WORTH / (passes * self.original))))

    def costs(self, *, student: bool) -> Costs:
        """Run it; without a ``student`` only images are made."""
        if not student:
            began = now(self.device)
            asked = self.asked
            where: dict[str, Any] = {"device": self.device, "seed": asked.seed, "execution": asked.execution}
            synthesize(asked.teacher, asked.shape, self.recipe.synthesis, **where)
            return self._synthesis(Costs(original=self.original), now(self.device) - began)
        work = Work.of(self.asked, self.recipe)
        images = work.make_images(self.asked.images and _some(self.asked.images, self.size))
        found = Costs(original=self.original)
        if self.watch.ticks["synthesis"]:
            found = self._synthesis(found, work.phases.seconds["synthesis"])
        return self._student(work, images and _some(images, self._needed()), found)

    def _needed(self) -> int:
        """Images of which a whole batch is left when some are held out."""
        tuning = self.recipe.finetune
        train = count = max(self.recipe.reconstruction.batch_size, tuning.batch_size)
        while count - held_out_count(count, tuning.held_out) < train:
            count += 1
        return count

    def _synthesis(self, found: Costs, seconds: float) -> Costs:
        (step,) = self.watch.steps("synthesis")
        setup = {"synthesis": max(0.0, seconds - self.count["synthesis"] * step)}
        return replace(found, synthesis=step / self.size, setup={**found.setup, **setup})

    def _student(self, work: Work, images: Images | None, found: Costs) -> Costs:
        tuning, seconds, ticks = self.recipe.finetune, work.phases.seconds, self.watch.ticks
        work.calibrate(images)
        found = replace(found, student=self._pass(work.student))
        if self.recipe.images == "generated":
            found = replace(found, generator=seconds["calibration"] / UPDATES)
        else:
            size = min(tuning.calibration_batch_size, len(images)) if images else tuning.calibration_batch_size
            found = replace(found, calibration=seconds["calibration"] / (UPDATES * size))
        if tuning.shrink_ranges:
            searched = min(SEARCH_IMAGES, len(images)) if images else SEARCH_IMAGES
            found = replace(found, range_search=seconds["range search"] / searched)
        count = 0 if images is None else len(images)
        held = held_out_count(count, tuning.held_out)
        work.reconstruct(images)
        if ticks["reconstruction"]:
            steps = self.count["reconstruction"]
            blocks = tuple(self.watch.steps("reconstruction"))
            left = seconds["reconstruction"] - steps * sum(blocks) - found.passes(count - held)
            found = replace(found, blocks=blocks, setup={**found.setup, "reconstruction": max(0.0, left)})
        work.finetune(images)
        if ticks["fine-tuning"]:
            steps = self.count["fine-tuning"]
            (step,) = self.watch.steps("fine-tuning")
            left = seconds["finetuning"] - steps * step - found.looks(2, held)
            setup = {**found.setup, "finetuning": max(0.0, left)}
            found = replace(found, finetune=step / tuning.batch_size, setup=setup)
        return found


def _some(images: Images, count: int) -> Images:
    """``count`` of them, from the first on and again."""
    chosen = torch.arange(count) % len(images)
    return Images(images.images[chosen], images.labels[chosen], images.real)


def _sample(asked: Asked, test: ImageSet | None) -> ImageSet | Images:
    """Test images to evaluate, with the time to read them; noise where there are none."""
    on_cpu = asked.world.device.type == "cpu"
    count = min(SAMPLE, images_of(SEEN, asked.shape)) if on_cpu else max(SAMPLE, asked.evaluation_batch)
    if test is not None:
        return replace(test, labels=test.labels[:count])
    noise = torch.randn(count, *asked.shape.size, generator=torch.Generator().manual_seed(0))
    return Images(noise, torch.zeros(count, dtype=torch.int64))


def _largest_map(asked: Asked) -> int:
    """Bytes of the largest output of a module for one image."""
    largest = 0

    def see(_: nn.Module, __: object, output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.numel() * output.element_size())

    parameter, hooks = next(asked.teacher.parameters()), (m.register_forward_hook(see) for m in asked.teacher.modules())
    with hooked(hooks), torch.no_grad(), eval_mode(asked.teacher):
        asked.teacher(torch.zeros(1, *asked.shape.size, device=parameter.device))
    return largest


def _resident_peak() -> int:
    """Bytes that the process had in memory at most; 0 where the system does not tell."""
    if sys.platform == "win32":
        return 0
    import resource  # noqa: PLC0415 - Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
