"""Learning-rate schedules whose state lives on the device: stepping them never reads it back."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from hast_cuda.ops import new_plateau_state, plateau_step

FACTOR, THRESHOLD = 0.1, 1e-4


class Schedule(ABC):
    """A learning rate that follows the loss or the iteration; all tensors stay where they are."""

    learning_rate: Tensor
    """0-d float64."""
    rate: Tensor
    """The same in float32, for the optimizer."""

    def __init__(self, first: float, minimum: float) -> None:
        self.first, self.minimum = first, minimum

    @abstractmethod
    def step(self, loss: Tensor) -> None:
        """Advance by one iteration, whose loss is 0-d; nothing reads the device."""

    def reset(self) -> None:
        """Back to the first iteration, in place."""
        self.learning_rate.fill_(self.first)
        self.rate.fill_(self.first)


class PlateauSchedule(Schedule):
    """``torch.optim.lr_scheduler.ReduceLROnPlateau`` (mode min, relative threshold), on the device.

    Better means ``loss < best * (1 - 1e-4)``. After more than ``patience`` iterations in a row that
    are not better: ``lr <- max(lr / 10, minimum)`` if that changes it by more than 1e-8.
    """

    def __init__(
        self, learning_rate: float, *, patience: int = 50, minimum: float = 1e-4, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(learning_rate, minimum)
        self.state, self.rate = new_plateau_state(learning_rate, device=device)
        self.learning_rate, self.best, self.bad = self.state.unbind()
        self.rule: dict[str, Any] = {"patience": patience, "factor": FACTOR, "threshold": THRESHOLD}

    def reset(self) -> None:
        """Back to the first iteration, in place."""
        super().reset()
        self.best.fill_(math.inf)
        self.bad.zero_()

    def step(self, loss: Tensor) -> None:
        """One launch."""
        plateau_step(self.state, self.rate, loss, minimum=self.minimum, **self.rule)


class CosineSchedule(Schedule):
    """``minimum + (lr - minimum) * (1 + cos(pi*t / iterations)) / 2``, t kept on the device."""

    def __init__(
        self, learning_rate: float, iterations: int, *, minimum: float = 1e-4, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(learning_rate, minimum)
        self.learning_rate = torch.tensor(learning_rate, dtype=torch.float64, device=device)
        self.rate, self.iterations = self.learning_rate.float(), iterations
        self.count = torch.zeros_like(self.learning_rate)

    def reset(self) -> None:
        """Back to the first iteration, in place."""
        super().reset()
        self.count.zero_()

    @torch.no_grad()
    def step(self, loss: Tensor) -> None:  # noqa: ARG002 - the schedule ignores the loss
        """A few launches."""
        self.count.add_(1)
        phase = torch.cos(self.count * (math.pi / self.iterations))
        self.learning_rate.copy_(self.minimum + (self.first - self.minimum) * (1 + phase) / 2)
        self.rate.copy_(self.learning_rate)


class ExponentialSchedule(Schedule):
    """``lr * left ** (t / iterations)``, t kept on the device."""

    def __init__(
        self, learning_rate: float, iterations: int, *, left: float, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(learning_rate, learning_rate * left)
        self.learning_rate = torch.tensor(learning_rate, dtype=torch.float64, device=device)
        self.rate, self.factor = self.learning_rate.float(), left ** (1 / iterations)

    @torch.no_grad()
    def step(self, loss: Tensor) -> None:  # noqa: ARG002 - the schedule ignores the loss
        """Two launches."""
        self.learning_rate.mul_(self.factor)
        self.rate.copy_(self.learning_rate)
