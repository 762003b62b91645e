"""Looks at a student in training: agreement on images held out, test accuracy, checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple

from torch import nn

from hast_cuda.files.tensors import restore
from hast_cuda.finetune.agreement import Agreement, HeldOutImages
from hast_cuda.finetune.checkpoint import Checkpoint
from hast_cuda.loops.optimizer_state import separate
from hast_cuda.ranks import World

Log = Callable[[dict[str, float | int | str]], None]
Evaluate = Callable[[nn.Module], float]


def kept_iteration(looks: Sequence[tuple[int, float, float, float]]) -> int:
    """Of the student that counts, by :attr:`Agreement.cropped`.

    The last one, if it is closer to the teacher than the start; else the closest of all. Those on the
    way count only then: they have a high rate behind them and no average, and are farther on real
    images than they seem here.
    """
    far = [(Agreement(*seen).cropped, done) for done, *seen in looks]
    return far[-1][1] if far[-1][0] < far[0][0] else min(far)[1]


FARTHER = 1.25  # times the start's divergence, at the first look: the rate is too high
SLOWER = 1 / 4  # of the rate, after each restart; a power of 2, so that nothing is rounded


class Watch:
    """What rank 0 finds out about a student, in the ``state`` of every rank.

    Test top-1 by ``evaluate``, and how it compares with its teacher on images held out, where they are given; with
    ``best`` the closest student is remembered, and training may begin again ``restarts`` times.
    """

    def __init__(
        self,
        student: nn.Module,
        state: Checkpoint,
        held_out: HeldOutImages | None,
        *,
        best: bool,
        restarts: int,
        evaluate: Evaluate | None,
        save: Callable[[Checkpoint], None],
        log: Log,
        world: World,
    ) -> None:
        self.student, self.state, self.held_out, self.best, self.restarts = student, state, held_out, best, restarts
        self.evaluate, self.save, self.log, self.world = evaluate, save, log, world

    def begin(self) -> None:
        """The first look, at the student as it came; none in a run that goes on."""
        if not self.state.iteration:
            self._on_first(lambda: self._compare(0))

    def __call__(self, done: int) -> None:
        """Look at the student after ``done`` iterations, and keep the state."""
        self._on_first(lambda: self._look(done))
        self.state.iteration = done  # of every rank

    @property
    def too_fast(self) -> bool:
        """Whether training has to begin again, at a lower rate."""
        far = [Agreement(*seen).cropped for _, *seen in self.state.agreements]
        return self.best and self.state.restarts < self.restarts and len(far) == 2 and far[1] > FARTHER * far[0]

    @property
    def share(self) -> float:
        """Of the rate, that restarts have left."""
        return float(SLOWER**self.state.restarts)

    def begin_again(self) -> None:
        """Give rank 0 the student as it came, and forget what was seen since."""
        state = self.state
        if self.world.first:
            restore(self.student, state.closest)  # the start: the only look since was farther
        state.iteration, state.accuracies, state.agreements = 0, [], state.agreements[:1]
        state.restarts += 1
        if self.world.first:
            self.log({"note": f"fine-tuning begins again at {self.share:.3g} of its rate"})

    def keep_closest(self) -> None:
        """Make the student of rank 0 the closest one, where that is remembered and counts."""
        if self.world.first and self.kept_iteration not in (None, self.state.iteration):
            restore(self.student, self.state.closest)

    @property
    def kept_iteration(self) -> int | None:
        """Of the student that counts if training ends here; None: the last one."""
        return kept_iteration(self.state.agreements) if self.best else None

    def _on_first(self, look: Callable[[], None]) -> None:
        state = self.state

        def found() -> tuple[list[tuple[int, float]], list[tuple[int, float, float, float]]]:
            look()
            return state.accuracies, state.agreements

        state.accuracies, state.agreements = self.world.on_first(found)

    def _compare(self, done: int) -> None:
        if self.held_out is None:
            return
        found, state = self.held_out.agreement(self.student), self.state
        if self.best and all(found.cropped < Agreement(*seen).cropped for _, *seen in state.agreements):
            state.closest = separate(self.student.state_dict())
        state.agreements.append((done, *astuple(found)))
        self.log({"phase": "held out", "iteration": done, **asdict(found)})

    def _look(self, done: int) -> None:
        self._compare(done)
        if self.evaluate is not None:
            self.state.accuracies.append((done, self.evaluate(self.student)))
            self.log({"phase": "test", "iteration": done, "top1": self.state.accuracies[-1][1]})
        self.state.iteration = done
        self.save(self.state)
