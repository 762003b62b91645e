"""The backward pass of a loss whose gradient was computed with it."""

from __future__ import annotations

import torch
from torch import Tensor


def scaled(gradient: Tensor, upstream: Tensor, dtype: torch.dtype) -> Tensor:
    """``gradient * upstream`` (0-d) rounded once to ``dtype``, in one launch.

    The saved gradient of half-precision logits is float32: before it is scaled most of it would be
    below the smallest float16.
    """
    if gradient.dtype == dtype:
        return gradient * upstream
    return torch.mul(gradient, upstream, out=torch.empty_like(gradient, dtype=dtype))
