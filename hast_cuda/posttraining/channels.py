"""Weights of convolutions and linear layers, seen by channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hast_cuda.networks.layer_graph import Pair
from hast_cuda.networks.statistics import output_moments, set_output_moments


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


@torch.no_grad()
def rescale(pair: Pair, gain: Tensor) -> None:
    """Multiply the channels between two layers by ``gain`` [channels], and divide the second's weights by it.

    A BatchNorm between takes the gain, else the first layer's weights, bias and remembered moments.
    """
    first, second = pair.first, pair.second
    if pair.norm is not None:
        for parameter in (pair.norm.weight, pair.norm.bias):
            parameter.mul_(gain)
    else:
        first.weight.copy_(first.weight * gain.reshape(-1, *[1] * (first.weight.dim() - 1)))
        if first.bias is not None:
            first.bias.copy_(first.bias * gain)
        moments = output_moments(first)
        if moments is not None:
            mean, std = moments
            set_output_moments(first, (mean * gain).to(mean.dtype), (std * gain).to(std.dtype))
    scaled = grouped(second, second.weight) / gain.reshape(groups(second), 1, -1, 1)
    second.weight.copy_(scaled.reshape(second.weight.shape))
