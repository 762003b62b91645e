"""The activations that kernels fuse in front of a quantizer, by name and by the core's code."""

from __future__ import annotations

from hast_cuda.checks import tensors as _checks

ACTIVATIONS: dict[str | None, int] = {None: 0, "relu": 1, "relu6": 2}
ACTIVATION_NAMES = {code: name for name, code in ACTIVATIONS.items()}


def activation_code(activation: str | None) -> int:
    """Core code of a fused activation; ValueError for another name."""
    _checks.choice("activation", activation, tuple(ACTIVATIONS))
    return ACTIVATIONS[activation]
