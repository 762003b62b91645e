"""Quantized networks in forms that other programs read."""

from __future__ import annotations

from hast_cuda.exports.float_network import save_float, to_float
from hast_cuda.exports.formats import KINDS, Exported, export_network
from hast_cuda.exports.packed import PackedInfo, load_packed, read_packed, save_packed
from hast_cuda.exports.program import export_program, save_program
from hast_cuda.exports.to_onnx import FORMS, OnnxInfo, save_onnx
from hast_cuda.exports.verify import Check, Latency, check, measure, onnx_network

__all__ = [
    "FORMS",
    "KINDS",
    "Check",
    "Exported",
    "Latency",
    "OnnxInfo",
    "PackedInfo",
    "check",
    "export_network",
    "export_program",
    "load_packed",
    "measure",
    "onnx_network",
    "read_packed",
    "save_float",
    "save_onnx",
    "save_packed",
    "save_program",
    "to_float",
]
