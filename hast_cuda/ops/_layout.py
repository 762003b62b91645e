"""Memory layouts as the core sees them: contiguous ``[outer, channels, inner]``."""

from __future__ import annotations

import math
from typing import TypedDict

import torch
from torch import Tensor


class Extents(TypedDict):
    """Sizes of a tensor for the core."""

    outer: int
    channels: int
    inner: int


def is_channels_last(x: Tensor) -> bool:
    """True for a 4-d or 5-d tensor that is dense only in channels_last order."""
    if x.is_contiguous():
        return False
    return (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)) or (
        x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d)
    )


def dense(x: Tensor) -> Tensor:
    """``x`` itself if contiguous or channels_last, else a contiguous copy."""
    return x if x.is_contiguous() or is_channels_last(x) else x.contiguous()


def like(x: Tensor, reference: Tensor) -> Tensor:
    """``x`` in the memory layout of ``reference`` (which is dense)."""
    if is_channels_last(reference):
        last = torch.channels_last if reference.dim() == 4 else torch.channels_last_3d
        return x.contiguous(memory_format=last)
    return x.contiguous()


def extents(x: Tensor, channel_axis: int | None) -> Extents:
    """Those of a dense tensor; the whole tensor is one channel for ``None``."""
    if channel_axis is None:
        return {"outer": 1, "channels": 1, "inner": x.numel()}
    shape, elements = x.shape, x.numel()
    channels = shape[channel_axis]
    if elements == 0:
        return {"outer": 0, "channels": channels, "inner": 0}
    if not is_channels_last(x):
        outer = shape[0] if channel_axis == 1 else math.prod(shape[:channel_axis])
    else:
        in_memory = (0, *range(2, x.dim()), 1)
        outer = math.prod(shape[axis] for axis in in_memory[: in_memory.index(channel_axis)])
    return {"outer": outer, "channels": channels, "inner": elements // (outer * channels)}
