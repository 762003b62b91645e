"""Whole runs: the phases in order, in a directory that survives being killed."""

from __future__ import annotations

from hast_cuda.run.directory import RunDirectory, environment, plain
from hast_cuda.run.inputs import infer_shape
from hast_cuda.run.pipeline import (
    Bits,
    QuantizationResult,
    save_student,
    zero_shot_quantize,
)
from hast_cuda.run.record import read_finetune_config, read_images
from hast_cuda.run.student import load_student

__all__ = [
    "Bits",
    "QuantizationResult",
    "RunDirectory",
    "environment",
    "infer_shape",
    "load_student",
    "plain",
    "read_finetune_config",
    "read_images",
    "save_student",
    "zero_shot_quantize",
]
