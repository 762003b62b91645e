"""What a library of networks must offer to be named in front of a colon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn

from hast_cuda.data.input_spec import Channels, InputSpec

Arguments = Mapping[str, Any]


class Library(Protocol):
    """A module of this room with these functions."""

    def names(self) -> list[str]:
        """Of every classifier."""

    def build(self, name: str, arguments: Arguments, num_classes: int | None) -> nn.Module:
        """The architecture with random weights, and as many classes where they can be chosen."""

    def trained(self, name: str, arguments: Arguments) -> nn.Module:
        """The network with its published weights; ValueError: there are none that fit. RuntimeError: not downloaded."""

    def spec(self, name: str, arguments: Arguments) -> InputSpec:
        """The images that the published weights were trained on."""


def absent(what: str, error: BaseException, url: str, place: str | None = None) -> RuntimeError:
    """What to raise where ``what`` cannot be downloaded: which file to bring, and where to."""
    put = f"put it into {place}" if place else "give it with --weights FILE"
    reason = str(error).partition("\n")[0] or type(error).__name__
    return RuntimeError(
        f"could not download {what} ({reason}): check the connection, or bring {url} and {put}; other weights: "
        "--weights FILE (.safetensors or a torch state dict)"
    )


def crop_side(size: int, share: float = 0.875) -> int:
    """The shorter side that images are scaled to before a crop of ``size`` pixels; 0.875 is usual for ImageNet."""
    return max(size, round(size / share))


def for_channels(count: int, mean: Channels, std: Channels) -> tuple[Channels, Channels]:
    """A normalization for as many channels: as it is, or its mean for each, as timm does for grey images."""
    if count == len(mean):
        return mean, std
    return (sum(mean) / len(mean),) * count, (sum(std) / len(std),) * count
