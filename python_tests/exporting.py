"""Calibrated students for the tests of exports."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import hast_cuda as hc

SHAPE = (3, 8, 8)


def images(count: int = 6, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(count, *shape)


def student_of(network: nn.Module, *args: Any, shape: tuple[int, ...] = SHAPE, **kwargs: Any) -> Any:
    """Quantized and calibrated."""
    student = hc.quantize(network, *args, **kwargs)
    dtype = next(network.parameters()).dtype
    return hc.calibrate(student, [images(4, shape).to(dtype)]).eval()
