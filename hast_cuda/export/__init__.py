"""Quantized networks in forms that other programs read."""

from __future__ import annotations

from hast_cuda.export.float_network import save_float, to_float
from hast_cuda.export.packed import PackedInfo, load_packed, read_packed, save_packed
from hast_cuda.export.program import export_program, save_program

__all__ = [
    "PackedInfo",
    "export_program",
    "load_packed",
    "read_packed",
    "save_float",
    "save_packed",
    "save_program",
    "to_float",
]
