"""Quantized networks in forms that other programs read."""

from __future__ import annotations

from hast_cuda.exports.float_network import save_float as save_float
from hast_cuda.exports.float_network import to_float
from hast_cuda.exports.formats import KINDS, export_network
from hast_cuda.exports.integer_biases import integer_biases
from hast_cuda.exports.packed import load_packed, read_packed, save_packed
from hast_cuda.exports.program import export_program as export_program
from hast_cuda.exports.program import save_program
from hast_cuda.exports.records import Check as Check
from hast_cuda.exports.records import Exported as Exported
from hast_cuda.exports.records import Latency as Latency
from hast_cuda.exports.to_engine import save_engine
from hast_cuda.exports.to_litert import save_litert
from hast_cuda.exports.to_onnx import FORMS as FORMS
from hast_cuda.exports.to_onnx import save_onnx
from hast_cuda.exports.verify import check, onnx_network
from hast_cuda.exports.verify import measure as measure

OnnxInfo = PackedInfo = Exported  # their former names

__all__ = [
    "KINDS",
    "check",
    "export_network",
    "integer_biases",
    "load_packed",
    "onnx_network",
    "read_packed",
    "save_engine",
    "save_litert",
    "save_onnx",
    "save_packed",
    "save_program",
    "to_float",
]
