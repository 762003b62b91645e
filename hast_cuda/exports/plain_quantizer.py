"""Activation quantizers in plain PyTorch, for programs that run without this package."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hast_cuda.nn import FakeQuantActivation
from hast_cuda.ops.reference import arithmetic_dtype, quantizer_parameters


class PlainQuantizer(nn.Module):
    """Eq. 1-2 of a frozen :class:`hast_cuda.FakeQuantActivation`, bit by bit, without its ops.

    ``(clamp(round(S*x - z), -2^(n-1), 2^(n-1) - 1) + z) / S``; S and z are buffers, so that moving
    the program moves them and no compiler turns the division into a product.
    """

    scale: Tensor
    zero: Tensor

    def __init__(self, source: FakeQuantActivation, dtype: torch.dtype) -> None:
        super().__init__()
        arithmetic = arithmetic_dtype(dtype)
        lower, upper = source.range_state[:2].detach().to(arithmetic).unbind()
        scale, zero = quantizer_parameters(lower, upper, source.bits)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero)
        self.activation, self.arithmetic = source.activation, arithmetic
        self.inplace = source.inplace
        self.low, self.high = -(2 ** (source.bits - 1)), 2 ** (source.bits - 1) - 1

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> same; computed in float32, or float64 for float64."""
        if arithmetic_dtype(x.dtype) != self.arithmetic:  # while tracing: no part of a program
            raise TypeError(
                f"activations are {x.dtype}, but the network's parameters need {self.arithmetic}"
            )
        y = x.to(self.arithmetic)
        if self.activation is not None:
            y = F.relu(y) if self.activation == "relu" else F.relu6(y)
        codes = torch.round(self.scale * y - self.zero).clamp(self.low, self.high)
        y = ((codes + self.zero) / self.scale).to(x.dtype)
        return x.copy_(y) if self.inplace else y
