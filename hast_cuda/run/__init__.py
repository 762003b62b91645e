"""Whole runs: the phases in order, in a directory that survives being killed."""

from __future__ import annotations

from hast_cuda.run.bits import Bits
from hast_cuda.run.directory import RunDirectory, environment, plain
from hast_cuda.run.inputs import infer_shape
from hast_cuda.run.load import load
from hast_cuda.run.pipeline import QuantizationResult, zero_shot_quantize
from hast_cuda.run.settings import (
    image_store,
    read_config,
    read_finetune_config,
    read_first_images,
    read_images,
    read_recipe,
    read_synthesis_config,
)
from hast_cuda.run.student import load_student, save_student
from hast_cuda.run.tensorboard import TensorBoardLog, require_tensorboard
from hast_cuda.run.together import check_same_work

__all__ = [
    "Bits",
    "QuantizationResult",
    "RunDirectory",
    "TensorBoardLog",
    "check_same_work",
    "environment",
    "image_store",
    "infer_shape",
    "load",
    "load_student",
    "plain",
    "read_config",
    "read_finetune_config",
    "read_first_images",
    "read_images",
    "read_recipe",
    "read_synthesis_config",
    "require_tensorboard",
    "save_student",
    "zero_shot_quantize",
]
