"""The student's step as one launch: one CUDA graph, or two with the processes' sum between."""

from __future__ import annotations

import torch

from hast_cuda.finetune.batches import Batch
from hast_cuda.finetune.objective import loss_weights
from hast_cuda.finetune.processes import GradientSums
from hast_cuda.finetune.step import FinetuneStep
from hast_cuda.loops.finite import FiniteGuard
from hast_cuda.loops.graphs import Replayed
from hast_cuda.ranks import World


class ReplayedStep:
    """Takes ``step`` on batches that stay in place; ``guard`` sees the loss.

    A batch that comes again is replayed. With several processes a step is two graphs: inside one
    nothing may wait for another process. :attr:`terms` are the last clean loss's, unweighted.
    """

    def __init__(self, step: FinetuneStep, guard: FiniteGuard, world: World | None = None) -> None:
        self.step, self.guard, self.sums = step, guard, None
        count = len(loss_weights(step.config))
        self.terms = tuple(torch.zeros((), device=step.rate.device) for _ in range(count))
        if world is not None and world.size > 1:
            self.sums = GradientSums(step.parameters, count, world)
            self.terms = self.sums.terms
        self._graphs: dict[Batch, list[Replayed]] = {}

    def __call__(self, batch: Batch) -> None:
        """One step on ``batch``."""
        if batch not in self._graphs:
            self._graphs[batch] = self._make_graphs(batch)
        first, *rest = self._graphs[batch]
        first()
        if self.sums is not None:
            self.sums.reduce()
        for part in rest:
            part()

    def _make_graphs(self, batch: Batch) -> list[Replayed]:
        def differentiate() -> None:
            images, labels = batch.read()
            images = self.step.execution.images(images)
            terms = self.step.differentiate(images, labels, batch.share)
            if self.sums is not None:
                self.sums.put(terms, batch.share)
            else:
                torch._foreach_copy_(list(self.terms), list(terms))

        def update() -> None:
            self.step.update()
            self.guard.observe(sum(self.terms[1:], self.terms[0]))

        def whole() -> None:
            differentiate()
            update()

        parts = [whole] if self.sums is None else [differentiate, update]
        mode = self.step.execution.cuda_graphs
        return [Replayed(part, self.step.rate.device, mode) for part in parts]
