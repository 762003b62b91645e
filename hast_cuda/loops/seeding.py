"""Runs that can be repeated: named random streams."""

from __future__ import annotations

import hashlib
from typing import Any

import torch


def derive_seed(seed: int, *names: object) -> int:
    """63-bit seed of the stream called ``names`` under ``seed``; equal on every machine."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: object, device: Any = "cpu") -> torch.Generator:
    """Generator on ``device`` for the stream called ``names``."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *names))
