"""Inputs that kernels get wrong: odd layouts, unaligned views, non-contiguous tensors."""

from __future__ import annotations

import torch
from torch import Tensor

FORMATS = ["contiguous", "channels_last", "transposed", "unaligned"]


def arrange(x: Tensor, layout: str) -> Tensor:
    """The values of ``x`` in another memory layout."""
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "unaligned":
        buffer = torch.empty(x.numel() + 1, dtype=x.dtype, device=x.device)
        buffer[1:] = x.flatten()
        return buffer[1:].view(x.shape)
    return x.contiguous()


def check_close(actual: Tensor, eager: Tensor, oracle: Tensor, atol: float = 1e-6) -> None:
    """The kernel is at most twice as far from the float64 oracle as eager, plus ``atol``."""
    error = (actual.double() - oracle).abs().max()
    allowed = 2 * (eager.double() - oracle).abs().max() + atol * (1 + oracle.abs().max())
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"
