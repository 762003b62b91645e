"""Whole runs: the phases in order, in a directory that survives being killed."""

from __future__ import annotations

from hast_cuda.run.directory import RunDirectory
from hast_cuda.run.pipeline import (
    Bits,
    QuantizationResult,
    infer_shape,
    save_student,
    zero_shot_quantize,
)
from hast_cuda.run.student import load_student

__all__ = [
    "Bits",
    "QuantizationResult",
    "RunDirectory",
    "infer_shape",
    "load_student",
    "save_student",
    "zero_shot_quantize",
]
