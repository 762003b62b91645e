"""Learning-rate schedules whose state lives on the device: stepping them never reads it back."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor


class Schedule(Protocol):
    """A learning rate (0-d float64 tensor) that follows the loss or the iteration."""

    learning_rate: Tensor

    def step(self, loss: Tensor) -> None:
        """Advance by one iteration."""


class PlateauSchedule:
    """``torch.optim.lr_scheduler.ReduceLROnPlateau`` (mode min, relative threshold), on the device.

    Better means ``loss < best * (1 - threshold)``. After more than ``patience`` iterations in a row
    that are not better: ``lr <- max(lr * factor, minimum)`` if that changes it by more than 1e-8.
    """

    def __init__(
        self, learning_rate: float, *, patience: int = 50, factor: float = 0.1,
        threshold: float = 1e-4, minimum: float = 1e-4, device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        def scalar(value: float) -> Tensor:
            return torch.tensor(value, dtype=torch.float64, device=device)

        self.learning_rate, self.best, self.bad = scalar(learning_rate), scalar(math.inf), scalar(0)
        self.patience, self.factor, self.threshold = patience, factor, threshold
        self.minimum = minimum

    @torch.no_grad()
    def step(self, loss: Tensor) -> None:
        """Advance with the loss of this iteration, 0-d, any floating dtype."""
        current = loss.detach().double()
        better = current < self.best * (1 - self.threshold)
        self.best.copy_(torch.where(better, current, self.best))
        self.bad.copy_(torch.where(better, 0.0, self.bad + 1))
        stalled = self.bad > self.patience
        lower = (self.learning_rate * self.factor).clamp(min=self.minimum)
        change = stalled & (self.learning_rate - lower > 1e-8)
        self.learning_rate.copy_(torch.where(change, lower, self.learning_rate))
        self.bad.copy_(torch.where(stalled, 0.0, self.bad))


class CosineSchedule:
    """``minimum + (lr - minimum) * (1 + cos(pi*t / iterations)) / 2``, t kept on the device."""

    def __init__(
        self, learning_rate: float, iterations: int, *, minimum: float = 1e-4,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.learning_rate = torch.tensor(learning_rate, dtype=torch.float64, device=device)
        self.count = torch.zeros((), dtype=torch.float64, device=device)
        self.first, self.minimum, self.iterations = learning_rate, minimum, iterations

    @torch.no_grad()
    def step(self, loss: Tensor) -> None:  # noqa: ARG002 - the schedule ignores the loss
        """Advance by one iteration."""
        self.count.add_(1)
        phase = torch.cos(self.count * (math.pi / self.iterations))
        self.learning_rate.copy_(self.minimum + (self.first - self.minimum) * (1 + phase) / 2)
