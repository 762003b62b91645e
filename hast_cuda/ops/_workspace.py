"""Zeroed counters for kernels whose last block finishes the reduction, one slot per CUDA stream.

A kernel counts its finished blocks and leaves the counter at zero again, so the slot is reused by
every later kernel of that stream without clearing it. Slots of one device lie in one allocation
made at first use, outside any CUDA graph. A captured kernel goes on using its slot, so none is
freed when the stream needs a larger one. Two graphs captured on one stream must not be replayed at
the same time on different streams.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hast_cuda.ops._registry import device_and_stream
from hast_cuda.ops.codes import Pointer

SLOT = 16384  # counters per stream: one per channel is needed at most
SLOTS = 32
NARROWEST_TILE = 32  # channels: no channels-last kernel that sums per image takes fewer at a time

_banks: dict[int, list[Tensor]] = {}
_slots: dict[tuple[int, int], list[Tensor]] = {}  # all that a stream was ever given


def counters(x: Tensor, count: int) -> Pointer:
    """Address of ``count`` zeroed counters for the current stream of ``x``; 0 on the CPU."""
    device, stream = device_and_stream(x)
    if device < 0:
        return Pointer(0)
    slots = _slots.get((device, stream), [])
    if not slots or slots[-1].numel() < count:
        slots = _slots[device, stream] = [*slots, _new_slot(x.device, count)]
    return Pointer(slots[-1].data_ptr())


def _new_slot(device: torch.device, count: int) -> Tensor:
    used = sum(key[0] == device.index for key in _slots)
    banks = _banks.setdefault(device.index, [])
    if count <= SLOT and used < SLOTS * len(banks):
        return banks[-1][used % SLOTS]
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "hast_cuda needs its counters before CUDA graph capture: run the captured code once "
            "outside the capture on this device first"
        )
    if count > SLOT:
        slot = torch.zeros(count, dtype=torch.int32, device=device)
    else:
        bank = torch.zeros(SLOTS, SLOT, dtype=torch.int32, device=device)
        banks.append(bank)
        slot = bank[used % SLOTS]
    torch.cuda.synchronize(device)  # other streams must see the zeros; happens once per bank
    return slot


def scratch(x: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Uninitialised scratch of ``count`` values on ``x``'s device, owned by the caller."""
    return torch.empty(max(count, 1), dtype=dtype, device=x.device)
