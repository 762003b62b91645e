"""Where a network comes from: told by the network itself, its copies, and what they are quantized to."""

from __future__ import annotations

from typing import Any

from torch import nn

_ATTRIBUTE = "hast_cuda_origin"


def remember(network: nn.Module, /, **origin: Any) -> None:
    """Add JSON values to what ``network`` tells; deep copies take it along."""
    setattr(network, _ATTRIBUTE, {**origin_of(network), **origin})


def origin_of(network: nn.Module) -> dict[str, Any]:
    """What was remembered; empty for a network that nobody named."""
    found = getattr(network, _ATTRIBUTE, None)
    return dict(found) if isinstance(found, dict) else {}
