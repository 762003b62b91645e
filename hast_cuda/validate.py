"""Checks of configuration values: the message names field, value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Sequence


def check_positive(name: str, value: float) -> None:
    """``value`` is finite and > 0."""
    if not (math.isfinite(value) and value > 0):
        message = f"{name} is {value}; it must be greater than 0"
        raise ValueError(message)


def check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """``value`` is finite and in [low, high]."""
    if not (math.isfinite(value) and low <= value <= high):
        bound = f"at least {low}" if math.isinf(high) else f"from {low} to {high}"
        message = f"{name} is {value}; allowed: {bound}"
        raise ValueError(message)


def check_scale(name: str, value: Sequence[float]) -> None:
    """``value`` is a (low, high) pair of fractions."""
    if len(value) != 2 or not 0 < value[0] <= value[1] <= 1:
        message = f"{name} is {value}; allowed: (low, high) with 0 < low <= high <= 1"
        raise ValueError(message)


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """``value`` is one of ``allowed``."""
    if value not in allowed:
        message = f"{name} is {value!r}; allowed: {', '.join(repr(a) for a in allowed)}"
        raise ValueError(message)
