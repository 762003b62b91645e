"""Maps of all images between two blocks: in memory up to a limit, beyond it in a file."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

CHUNK = 64  # images per forward pass


class MapStore:
    """Makes tensors of at most ``limit`` bytes together in memory, and more as files in ``folder``.

    A file has no name any more once it is there: it goes with the tensor, or with the process.
    """

    def __init__(self, limit: int, folder: Path | None = None) -> None:
        self.limit, self.folder, self.taken = limit, folder, 0

    def empty(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Uninitialised, on the device of ``like`` or, beyond the limit, in a file."""
        count = torch.Size(shape).numel()
        size = count * like.element_size()
        if self.taken + size > self.limit:
            with tempfile.NamedTemporaryFile(dir=self.folder) as file:
                file.truncate(size)
                return torch.from_file(file.name, shared=True, size=count, dtype=like.dtype).view(shape)
        found = like.new_empty(shape)
        self.taken += size
        weakref.finalize(found, self._release, size)
        return found

    def _release(self, size: int) -> None:
        self.taken -= size

    @torch.no_grad()
    def through(self, block: Callable[[Tensor], Tensor], maps: Tensor, device: torch.device) -> Tensor:
        """``block`` of every one of ``maps`` [N, ...], computed on ``device``."""
        found: Tensor | None = None
        for start in range(0, len(maps), CHUNK):
            part = block(maps[start : start + CHUNK].to(device, copy=True))  # which it may edit in place
            if found is None:
                found = self.empty((len(maps), *part.shape[1:]), part)
            found[start : start + CHUNK] = part
        assert found is not None
        return found


@torch.no_grad()
def squared_error(block: Callable[[Tensor], Tensor], maps: Tensor, target: Tensor, device: torch.device) -> float:
    """Mean of ``(block(maps) - target)^2`` over images, channels and positions."""
    total = torch.zeros((), dtype=torch.float64, device=device)
    for start in range(0, len(maps), CHUNK):
        part = slice(start, start + CHUNK)
        total += (block(maps[part].to(device, copy=True)) - target[part].to(device)).square().sum(dtype=torch.float64)
    return float(total) / max(target.numel(), 1)
