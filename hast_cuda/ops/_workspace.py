"""Zeroed counters for kernels whose last block finishes the reduction, and scratch.

A kernel counts its finished blocks and leaves the counter at zero again, so what follows on the
same stream uses the same counters without clearing them. Everything else has its own: another
stream, and every capture of a CUDA graph, whose kernels run whenever and wherever the graph is
replayed. They come from CUDA itself and are never freed: a graph keeps their address for good, and
memory of torch's would belong to the pool of whoever happens to be the first user.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hast_cuda.ops._registry import core, device_and_stream
from hast_cuda.ops.codes import Device, Pointer, Stream

FEWEST = 2048  # counters at a time: one per channel is needed at most, but for energies
NARROWEST_TILE = 32  # channels: no channels-last kernel that sums per image takes fewer at a time

# How many and where; by device, stream and number of the capture. A larger place takes the place of
# a smaller one. Two threads that make the same one at once are on one stream: either will do.
_places: dict[tuple[Device, Stream, int], tuple[int, Pointer]] = {}


def counters(x: Tensor, count: int) -> Pointer:
    """Address of ``count`` zeroed counters for the current stream of ``x``; 0 on the CPU."""
    device, stream = device_and_stream(x)
    if device < 0:
        return Pointer(0)
    key = device, stream, core.capture_number(device=device, stream=stream)
    size, address = _places.get(key, (0, Pointer(0)))
    if size < count:
        size = max(FEWEST, 1 << (count - 1).bit_length())
        address = core.new_counters(count=size, device=device)
        _places[key] = size, address
    return address


def scratch(x: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Uninitialised scratch of ``count`` values on ``x``'s device, owned by the caller."""
    return torch.empty(max(count, 1), dtype=dtype, device=x.device)
