"""Losses that stop being finite: noticed on the device, reported with the iteration they began."""

from __future__ import annotations

import torch
from torch import Tensor


class FiniteGuard:
    """Remembers, without reading the device, the first iteration whose loss was not finite."""

    def __init__(self, what: str, device: torch.device) -> None:
        self.what = what
        self.first = torch.full((), -1, dtype=torch.int64, device=device)

    def observe(self, loss: Tensor, iteration: int) -> None:
        """Note the loss of ``iteration``, a 0-d tensor on the device."""
        new = ~torch.isfinite(loss.detach()) & (self.first < 0)
        self.first.masked_fill_(new, iteration)

    def check(self, *results: Tensor) -> None:
        """Read the device; FloatingPointError if a loss or one of ``results`` is not finite."""
        first = int(self.first)
        if first >= 0:
            message = (
                f"{self.what}: the loss is not finite from iteration {first} on. What was finished "
                "before is kept. Try a smaller learning rate, or check the network's weights."
            )
            raise FloatingPointError(message)
        if not all(bool(torch.isfinite(r).all()) for r in results):
            message = f"{self.what}: the result contains NaN or infinity"
            raise FloatingPointError(message)
