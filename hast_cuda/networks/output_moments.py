"""Mean and standard deviation of a layer's outputs, remembered when its BatchNorm was folded."""

from __future__ import annotations

from torch import Tensor, nn


def set_output_moments(layer: nn.Module, mean: Tensor, std: Tensor) -> None:
    """Remember that output channel c of ``layer`` is N(mean[c], std[c]^2) on natural images.

    [C] each; buffers that follow the layer's device and copies but are not in its state dict.
    """
    layer.register_buffer("output_mean", mean.detach(), persistent=False)
    layer.register_buffer("output_std", std.detach(), persistent=False)


def output_moments(layer: nn.Module) -> tuple[Tensor, Tensor] | None:
    """(mean, std), [C] each, that ``layer`` remembers, or None."""
    mean, std = getattr(layer, "output_mean", None), getattr(layer, "output_std", None)
    return (mean, std) if isinstance(mean, Tensor) and isinstance(std, Tensor) else None


def share_output_moments(source: nn.Module, target: nn.Module) -> None:
    """Let ``target`` remember what ``source`` does."""
    found = output_moments(source)
    if found is not None:
        set_output_moments(target, *found)
