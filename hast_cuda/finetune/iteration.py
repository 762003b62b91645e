"""What runs on the device in one iteration, as one graph launch where CUDA graphs are on."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from hast_cuda.finetune.objective import loss_weights
from hast_cuda.finetune.shared import SharedSums
from hast_cuda.finetune.step import Step
from hast_cuda.loops.crops import resize_crops
from hast_cuda.loops.finite import FiniteGuard
from hast_cuda.loops.graphs import Replayed


class Update(ABC):
    """A batch, the student's step on it and the guard; the terms of its loss are in :attr:`terms`.

    The same tensors are read and written every time.

    Args:
        step: of the student.
        guard: sees the loss.
        share: the part of the batch that this process has.
        shared: sums over all processes, None for one. Then the step is two graphs with the sum
            between them: a process that waits for another must not do so inside a graph.
    """

    def __init__(
        self, step: Step, guard: FiniteGuard, share: float = 1.0, shared: SharedSums | None = None
    ) -> None:
        device = step.rate.device
        self.step, self.guard, self.share, self.shared = step, guard, share, shared
        self.terms = tuple(torch.zeros((), device=device) for _ in loss_weights(step.config))
        mode = step.execution.cuda_graphs
        parts = [self._run] if shared is None else [self._before, self._after]
        self.replayed = [Replayed(part, device, mode) for part in parts]

    @abstractmethod
    def batch(self) -> tuple[Tensor, Tensor | None]:
        """Images, and labels if there are any, from tensors that stay in place."""

    def run(self) -> None:
        """One step on the batch."""
        first, *rest = self.replayed
        first()
        if self.shared is not None:
            self.shared.sum_()
        for part in rest:
            part()

    def _run(self) -> None:
        images, labels = self.batch()
        self._keep(self.step(self.step.execution.images(images), labels))

    def _before(self) -> None:
        assert self.shared is not None
        images, labels = self.batch()
        images = self.step.execution.images(images)
        self.shared.put(self.step.differentiate(images, labels, self.share), self.share)

    def _after(self) -> None:
        assert self.shared is not None
        self.step.update()
        self._keep(self.shared.terms)

    def _keep(self, terms: tuple[Tensor, ...]) -> None:
        for kept, term in zip(self.terms, terms, strict=True):
            kept.copy_(term)
        self.guard.observe(sum(terms[1:], terms[0]))


class Iteration(Update):
    """An iteration on ``size`` of the stored ``images`` [N, C, H, W], cropped and mirrored.

    Args:
        step: of the student.
        images: on the device.
        size: of the batch.
        guard: sees the loss.
        labels: of the images, [N] or [N, classes], or None.
        share: see :class:`Update`.
        shared: see :class:`Update`.
    """

    def __init__(
        self, step: Step, images: Tensor, size: int, guard: FiniteGuard,
        labels: Tensor | None = None, share: float = 1.0, shared: SharedSums | None = None,
    ) -> None:  # fmt: skip
        super().__init__(step, guard, share, shared)
        self.images, self.labels = images, labels
        self.chosen = torch.zeros(size, dtype=torch.int64, device=images.device)
        self.crops = torch.zeros(size, 5, device=images.device)

    def batch(self) -> tuple[Tensor, Tensor | None]:
        """The crops of the chosen images, and their labels."""
        chosen = self.images.index_select(0, self.chosen)
        labels = None if self.labels is None else self.labels.index_select(0, self.chosen)
        return resize_crops(chosen, self.crops[:, :4], self.crops[:, 4]), labels

    def __call__(self, chosen: Tensor, crops: Tensor, rate: float, flip_goal: float = 0.0) -> None:
        """One iteration on the images ``chosen`` [size], cut out of them by ``crops`` [size, 5]."""
        self.chosen.copy_(chosen, non_blocking=True)
        self.crops.copy_(crops)
        self.step.set_rates(rate, flip_goal)
        self.run()


class GeneratedIteration(Update):
    """An iteration on images as a generator gives them, [N, C, H, W], and their labels."""

    def __init__(
        self, step: Step, guard: FiniteGuard, share: float = 1.0, shared: SharedSums | None = None
    ) -> None:
        super().__init__(step, guard, share, shared)
        self.images = self.labels = torch.empty(0)

    def batch(self) -> tuple[Tensor, Tensor | None]:
        """What the generator gave."""
        return self.images, self.labels

    def __call__(self, images: Tensor, labels: Tensor, rate: float, flip_goal: float = 0.0) -> None:
        """One iteration on ``images``, equal in shape every time."""
        if self.images.shape == images.shape:
            self.images.copy_(images)
            self.labels.copy_(labels)
        else:
            self.images, self.labels = images.clone(), labels.clone()
        self.step.set_rates(rate, flip_goal)
        self.run()
