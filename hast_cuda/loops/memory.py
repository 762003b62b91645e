"""Out of GPU memory: how much was needed, which batch would fit, and what is kept."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_MARGIN = 0.9  # of the memory: fragments, and what the driver takes


@dataclass(frozen=True)
class MemoryFigures:
    """Bytes, as the device tells them."""

    peak: int
    """The most that tensors took."""
    available: int
    """That this process can have: what it holds, and what nobody does."""


def device_figures(device: torch.device) -> MemoryFigures:
    """Those of a CUDA device."""
    available = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return MemoryFigures(torch.cuda.max_memory_allocated(device), available)


@contextmanager
def explained_memory(
    phase: str, batch_size: int, option: str, kept: str, device: torch.device, *, optional: bool = False
) -> Iterator[None]:
    """``torch.OutOfMemoryError`` with peak memory, batch size, one that would fit, and a fix.

    ``option`` changes the batch size or, ``optional``, leaves the phase out if it is false.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        found, asked = device_figures(device), _asked(str(error))
        smaller = fitting_batch(batch_size, found.peak + asked, found.available)
        advice = (
            f"set {option} to false, which leaves it out"
            if optional
            else f"set {option} to {smaller} or less (memory taken as proportional to it)"
            if smaller
            else "not even one image fits: use a GPU with more memory"
        )
        raise torch.OutOfMemoryError(
            f"{phase} ran out of memory on {device} with batches of {batch_size}: the peak was "
            f"{_size(found.peak)}, then {_size(asked)} more were asked for, of "
            f"{_size(found.available)} that this process can have. {kept} Free the GPU and run the "
            f"same command again, or {advice}; checkpoint_segments and precision help too"
        ) from error


def fitting_batch(batch_size: int, needed: int, available: int) -> int:
    """The batch that should fit, by proportion, at most half of this one; 0 if none does."""
    if batch_size < 2:
        return 0
    share = _MARGIN * available / max(needed, 1)
    return max(1, min(batch_size // 2, int(batch_size * share)))


def _asked(text: str) -> int:
    """Bytes of the allocation that failed, 0 if torch does not say."""
    match = re.search(r"Tried to allocate ([\d.]+) (\w+)", text)
    return int(float(match.group(1)) * _UNITS.get(match.group(2), 0)) if match else 0


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
