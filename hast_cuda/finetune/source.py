"""Where the student's images come from: stored ones, or a generator that trains along."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from hast_cuda.finetune.iteration import GeneratedIteration, Iteration
from hast_cuda.finetune.objective import loss_weights
from hast_cuda.finetune.shared import SharedSums
from hast_cuda.finetune.step import Step
from hast_cuda.generator.trainer import GeneratorTrainer
from hast_cuda.loops.crops import CropStream
from hast_cuda.loops.finite import FiniteGuard
from hast_cuda.loops.seeding import generator
from hast_cuda.ranks import World


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
    """Trains the student on one batch after the other; :attr:`terms` has the last one's losses.

    Args:
        step: of the student.
        world: processes that each take a part of every batch; default: this one.
    """

    terms: tuple[Tensor, ...] = ()

    def __init__(self, step: Step, world: World | None) -> None:
        self.step, self.config, self.world = step, step.config, world or World()
        world, self.shared = self.world, None
        if world.size > 1:
            self.shared = SharedSums(step.parameters, len(loss_weights(step.config)), world)

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

    Order and crops are drawn for whole batches: they do not depend on the number of processes.

    Args:
        step: of the student.
        images: [N, C, H, W] on the device.
        labels: [N] or [N, classes] on the device, or None.
        guard: sees the loss.
        seed: of order and crops.
        start: iterations done before.
        world: see :class:`Source`.
    """

    def __init__(
        self, step: Step, images: Tensor, labels: Tensor | None, guard: FiniteGuard, seed: int,
        start: int, world: World | None = None,
    ) -> None:  # fmt: skip
        super().__init__(step, world)
        config = step.config
        self.images, self.labels, self.guard = images, labels, guard
        self.stream = shuffled(len(images), config.batch_size, seed, start=start)
        self.crops = CropStream(
            min(config.batch_size, len(images)), (images.shape[2], images.shape[3]),
            config.crop_scale, config.flip_probability, images.device, seed, "augment",
        )  # fmt: skip
        self.iterations: dict[int, Iteration] = {}

    def train(self, iteration: int) -> None:
        """One step on the next images of the pass."""
        chosen, config = next(self.stream), self.config
        size = len(chosen)  # the last batch of a pass may be smaller
        own, share = self.world.part(size)
        if size not in self.iterations:
            self.iterations[size] = Iteration(
                self.step, self.images, len(chosen[own]), self.guard, self.labels, share,
                self.shared,
            )  # fmt: skip
        current = self.iterations[size]
        crops = self.crops.at(iteration)[:size]
        current(chosen[own], crops[own], config.rate(iteration), config.flip_goal(iteration))
        self.terms = current.terms


class GeneratedImages(Source):
    """Images of a generator that takes one training step per batch (GDFQ, Qimera).

    They are not cropped: augmentation makes more of stored images. The generator's own step is
    launched kernel by kernel, outside the CUDA graph of the student's.

    Of several processes rank 0 has the only generator that trains: its loss matches the statistics
    of whole batches, which a part of a batch does not have. The others get its images.

    Args:
        step: of the student.
        trainer: of the generator, on the student's device.
        guard: sees the student's loss.
        world: see :class:`Source`.
    """

    def __init__(
        self, step: Step, trainer: GeneratorTrainer, guard: FiniteGuard, world: World | None = None
    ) -> None:
        super().__init__(step, world)
        self.trainer = trainer
        self.own, share = self.world.part(trainer.batch_size)
        self.update = GeneratedIteration(step, guard, share, self.shared)
        self.terms = self.update.terms

    def train(self, iteration: int) -> None:
        """One step of the generator, then one of the student on its images."""
        config = self.config
        if self.world.first:
            images, labels = self.trainer.step(config.done(iteration))
        else:
            images, labels = self.trainer.like_step()
        if self.world.size > 1:
            self.world.spread_(images)
            self.world.spread_(labels)
        own = self.own
        self.update(images[own], labels[own], config.rate(iteration), config.flip_goal(iteration))

    def check(self) -> None:
        """Read the generator's losses."""
        self.world.on_first(self.trainer.check)

    def figures(self) -> dict[str, float]:
        """The generator's loss."""
        return {"generator": float(self.trainer.loss)}
