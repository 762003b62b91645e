"""Where the student's images come from: stored ones, or a generator that trains along."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from hast_cuda.augment import CropStream
from hast_cuda.failures import FiniteGuard
from hast_cuda.finetune.iteration import GeneratedIteration, Iteration
from hast_cuda.finetune.step import Step
from hast_cuda.seeding import generator
from hast_cuda.synthesis.generator import GeneratorTrainer


def shuffled(
    count: int, batch_size: int, seed: int, stream: str = "order", start: int = 0
) -> Iterator[Tensor]:
    """Endless batches of indices in a new random order per pass, from batch ``start`` on."""
    size = min(batch_size, count)
    number, skip = divmod(start, -(-count // size))
    while True:
        order = torch.randperm(count, generator=generator(seed, stream, number))
        yield from order.split(size)[skip:]
        number, skip = number + 1, 0


class Source(ABC):
    """Trains the student on one batch after the other; :attr:`terms` has the last one's losses."""

    terms: tuple[Tensor, ...] = ()

    @abstractmethod
    def train(self, iteration: int) -> None:
        """The student's step ``iteration``, counted from 0 in order."""

    def check(self) -> None:  # noqa: B027 - most sources cannot fail
        """Read the device; FloatingPointError if the images cannot be trusted any more."""

    def figures(self) -> dict[str, float]:
        """More figures to log; reads the device."""
        return {}


class StoredImages(Source):
    """Stored images in a new random order per pass, each cropped and mirrored anew.

    Args:
        step: of the student.
        images: [N, C, H, W] on the device.
        labels: [N] or [N, classes] on the device, or None.
        guard: sees the loss.
        seed: of order and crops.
        start: iterations done before.
    """

    def __init__(
        self, step: Step, images: Tensor, labels: Tensor | None, guard: FiniteGuard, seed: int,
        start: int,
    ) -> None:  # fmt: skip
        config = step.config
        self.step, self.images, self.labels, self.guard = step, images, labels, guard
        self.stream = shuffled(len(images), config.batch_size, seed, start=start)
        self.crops = CropStream(
            min(config.batch_size, len(images)), (images.shape[2], images.shape[3]),
            config.crop_scale, config.flip_probability, images.device, seed, "augment",
        )  # fmt: skip
        self.iterations: dict[int, Iteration] = {}

    def train(self, iteration: int) -> None:
        """One step on the next images of the pass."""
        chosen, config = next(self.stream), self.step.config
        size = len(chosen)  # the last batch of a pass may be smaller
        if size not in self.iterations:
            self.iterations[size] = Iteration(self.step, self.images, size, self.guard, self.labels)
        current = self.iterations[size]
        crops = self.crops.at(iteration)[:size]
        current(chosen, crops, config.rate(iteration), config.flip_goal(iteration))
        self.terms = current.terms


class GeneratedImages(Source):
    """Images of a generator that takes one training step per batch (GDFQ, Qimera).

    They are not cropped: augmentation makes more of stored images. The generator's own step is
    launched kernel by kernel, outside the CUDA graph of the student's.

    Args:
        step: of the student.
        trainer: of the generator, on the student's device.
        guard: sees the student's loss.
    """

    def __init__(self, step: Step, trainer: GeneratorTrainer, guard: FiniteGuard) -> None:
        self.config, self.trainer = step.config, trainer
        self.update = GeneratedIteration(step, guard)
        self.terms = self.update.terms

    def train(self, iteration: int) -> None:
        """One step of the generator, then one of the student on its images."""
        config = self.config
        images, labels = self.trainer.step(config.done(iteration))
        self.update(images, labels, config.rate(iteration), config.flip_goal(iteration))

    def check(self) -> None:
        """Read the generator's losses."""
        self.trainer.check()

    def figures(self) -> dict[str, float]:
        """The generator's loss."""
        return {"generator": float(self.trainer.loss)}
