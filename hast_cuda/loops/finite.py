"""Losses that stop being finite: noticed on the device, reported with the iteration they began."""

from __future__ import annotations

import torch
from torch import Tensor


class FiniteGuard:
    """Counts, without reading the device, the iterations before the first loss not finite."""

    def __init__(self, what: str, device: torch.device, start: int = 0) -> None:
        self.what, self.start = what, start
        self.poison = torch.zeros((), device=device)  # NaN from the first such loss on
        self.finite = torch.zeros((), dtype=torch.int64, device=device)

    def reset(self, what: str, start: int = 0) -> None:
        """Begin anew, with iteration number ``start``."""
        self.what, self.start = what, start
        self.poison.zero_()
        self.finite.zero_()

    def observe(self, loss: Tensor) -> None:
        """Note the loss of the next iteration, a 0-d tensor on the device."""
        loss = loss.detach()
        self.poison += loss - loss  # 0, or NaN for NaN and infinity
        self.finite += self.poison == 0

    def check(self, done: int, *results: Tensor) -> None:
        """Read the device; FloatingPointError if a loss or one of ``results`` is not finite.

        ``done`` iterations are over, those before the start included.
        """
        finite = int(self.finite)
        if finite < done - self.start:
            raise FloatingPointError(
                f"{self.what}: the loss is not finite from iteration {self.start + finite} on. "
                "What was finished before is kept. Try a smaller learning rate, or check the "
                "network's weights."
            )
        if not all(bool(torch.isfinite(r).all()) for r in results):
            raise FloatingPointError(f"{self.what}: the result contains NaN or infinity")
