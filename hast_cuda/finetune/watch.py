"""Looks at a student in training: agreement on images held out, test accuracy, checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

from torch import nn

from hast_cuda.finetune.agreement import HeldOutImages
from hast_cuda.finetune.checkpoint import Checkpoint
from hast_cuda.loops.optimizer_state import separate
from hast_cuda.ranks import World

Log = Callable[[dict[str, float | int | str]], None]
Evaluate = Callable[[nn.Module], float]


LEVEL = 1.25  # times the smallest divergence: on some dozens of images less is noise


def closest(agreements: Sequence[tuple[int, float, float]]) -> tuple[int, float, float]:
    """The last look, unless an earlier one saw a student clearly closer to the teacher: the closest."""
    best = min(agreements, key=lambda seen: seen[1])
    return agreements[-1] if agreements[-1][1] <= LEVEL * best[1] else best


class Watch:
    """What rank 0 finds out about a student, in the ``state`` of every rank.

    Args:
        student: as it is trained.
        state: of the run so far.
        held_out: images to compare the student on; None: it is not compared.
        best: whether the closest student is remembered.
        evaluate: test top-1 in percent; None: there are no test images.
        save: writes the state.
        log: gets what was found.
        world: of which rank 0 looks.
    """

    def __init__(
        self,
        student: nn.Module,
        state: Checkpoint,
        held_out: HeldOutImages | None,
        *,
        best: bool,
        evaluate: Evaluate | None,
        save: Callable[[Checkpoint], None],
        log: Log,
        world: World,
    ) -> None:
        self.student, self.state, self.held_out, self.best = student, state, held_out, best
        self.evaluate, self.save, self.log, self.world = evaluate, save, log, world

    def begin(self) -> None:
        """The first look, at the student as it came; none in a run that goes on."""
        if not self.state.iteration:
            self._on_first(lambda: self._compare(0))

    def __call__(self, done: int) -> None:
        """Look at the student after ``done`` iterations, and keep the state."""
        self._on_first(lambda: self._look(done))

    def keep_closest(self) -> None:
        """Make the student of rank 0 the closest one, where that is remembered; the last, if they are level."""
        agreements = self.state.agreements
        if self.best and self.world.first and closest(agreements) is not agreements[-1]:
            self.student.load_state_dict(self.state.best)

    def _on_first(self, look: Callable[[], None]) -> None:
        def found() -> tuple[list[tuple[int, float]], list[tuple[int, float, float]]]:
            look()
            return self.state.accuracies, self.state.agreements

        self.state.accuracies, self.state.agreements = self.world.on_first(found)

    def _compare(self, done: int) -> None:
        if self.held_out is None:
            return
        found, state = self.held_out.agreement(self.student), self.state
        if self.best and all(found.divergence < divergence for _, divergence, _ in state.agreements):
            state.best = separate(self.student.state_dict())
        state.agreements.append((done, found.divergence, found.same_class))
        self.log({"phase": "held out", "iteration": done, **asdict(found)})

    def _look(self, done: int) -> None:
        self._compare(done)
        if self.evaluate is not None:
            self.state.accuracies.append((done, self.evaluate(self.student)))
            self.log({"phase": "test", "iteration": done, "top1": self.state.accuracies[-1][1]})
        self.state.iteration = done
        self.save(self.state)
