"""Learning-rate schedules whose state lives on the device: stepping them never reads it back."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from hast_cuda.ops import new_plateau_state, plateau_step


class Schedule(Protocol):
    """A learning rate that follows the loss or the iteration; both tensors stay where they are."""

    learning_rate: Tensor
    """0-d float64."""
    rate: Tensor
    """The same in float32, for the optimizer."""

    def step(self, loss: Tensor) -> None:
        """Advance by one iteration."""

    def reset(self) -> None:
        """Back to the first iteration, in place."""


class PlateauSchedule:
    """``torch.optim.lr_scheduler.ReduceLROnPlateau`` (mode min, relative threshold), on the device.

    Better means ``loss < best * (1 - threshold)``. After more than ``patience`` iterations in a row
    that are not better: ``lr <- max(lr * factor, minimum)`` if that changes it by more than 1e-8.
    """

    def __init__(
        self, learning_rate: float, *, patience: int = 50, factor: float = 0.1,
        threshold: float = 1e-4, minimum: float = 1e-4, device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.state, self.rate = new_plateau_state(learning_rate, device=device)
        self.learning_rate, self.best, self.bad = self.state.unbind()
        self.patience, self.factor, self.threshold = patience, factor, threshold
        self.first, self.minimum = learning_rate, minimum

    def reset(self) -> None:
        """Back to the first iteration, in place."""
        self.learning_rate.fill_(self.first)
        self.rate.fill_(self.first)
        self.best.fill_(math.inf)
        self.bad.zero_()

    def step(self, loss: Tensor) -> None:
        """Advance with the loss of this iteration, 0-d, any floating dtype; one launch."""
        plateau_step(
            self.state, self.rate, loss, patience=self.patience, factor=self.factor,
            threshold=self.threshold, minimum=self.minimum,
        )  # fmt: skip


class CosineSchedule:
    """``minimum + (lr - minimum) * (1 + cos(pi*t / iterations)) / 2``, t kept on the device."""

    def __init__(
        self, learning_rate: float, iterations: int, *, minimum: float = 1e-4,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.learning_rate = torch.tensor(learning_rate, dtype=torch.float64, device=device)
        self.rate = self.learning_rate.float()
        self.count = torch.zeros((), dtype=torch.float64, device=device)
        self.first, self.minimum, self.iterations = learning_rate, minimum, iterations

    def reset(self) -> None:
        """Back to the first iteration, in place."""
        self.learning_rate.fill_(self.first)
        self.rate.fill_(self.first)
        self.count.zero_()

    @torch.no_grad()
    def step(self, loss: Tensor) -> None:  # noqa: ARG002 - the schedule ignores the loss
        """Advance by one iteration."""
        self.count.add_(1)
        phase = torch.cos(self.count * (math.pi / self.iterations))
        self.learning_rate.copy_(self.minimum + (self.first - self.minimum) * (1 + phase) / 2)
        self.rate.copy_(self.learning_rate)
