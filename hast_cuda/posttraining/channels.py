"""Weights of convolutions and linear layers, seen by channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def ensure_bias(layer: nn.Conv2d | nn.Linear) -> None:
    """Give a layer without bias one of zeros."""
    if layer.bias is None:
        weight = layer.weight
        zeros = torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device)
        layer.register_parameter("bias", nn.Parameter(zeros, weight.requires_grad))


def through_weights(layer: nn.Conv2d | nn.Linear, weight: Tensor, constant: Tensor) -> Tensor:
    """What ``layer`` with ``weight`` makes of maps that are constant per channel: [in] -> [out]."""
    per_input = grouped(layer, weight).sum(-1)
    return torch.einsum("goi,gi->go", per_input, constant.reshape(len(per_input), -1)).flatten()


def groups(layer: nn.Module) -> int:
    """Groups of a convolution; a linear layer has one."""
    return layer.groups if isinstance(layer, nn.Conv2d) else 1


def grouped(layer: nn.Conv2d | nn.Linear, weight: Tensor) -> Tensor:
    """A weight like that of ``layer`` as [groups, out/groups, in/groups, positions]."""
    count = groups(layer)
    return weight.reshape(count, weight.shape[0] // count, weight.shape[1], -1)
