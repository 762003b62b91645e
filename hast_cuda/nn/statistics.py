"""Which layers normalise with statistics that they have stored."""

from __future__ import annotations

from torch import nn

from hast_cuda.typed import typed


@typed
def has_running_statistics(module: nn.Module) -> bool:
    """True for every layer that normalises with statistics it has stored."""
    return all(getattr(module, n, None) is not None for n in ("running_mean", "running_var"))


@typed
def require_batch_norm(model: nn.Module) -> None:
    """ValueError unless some layer of ``model`` has running statistics."""
    if not any(has_running_statistics(module) for module in model.modules()):
        message = (
            "the network has no BatchNorm layer with running statistics, and synthesis matches "
            "images to those; use a network with BatchNorm (not yet folded into its "
            "convolutions) or quantize with images of your own"
        )
        raise ValueError(message)
