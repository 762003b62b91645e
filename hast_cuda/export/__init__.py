"""Quantized networks in forms that other programs read."""

from __future__ import annotations

from hast_cuda.export.packed import PackedInfo, load_packed, read_packed, save_packed

__all__ = [
    "PackedInfo",
    "load_packed",
    "read_packed",
    "save_packed",
]
