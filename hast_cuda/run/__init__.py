"""Whole runs: the phases in order, in a directory that survives being killed."""

from __future__ import annotations

from hast_cuda.networks.shape import infer_shape
from hast_cuda.run.directory import RunDirectory, environment, plain  # noqa: F401
from hast_cuda.run.estimate import Estimate
from hast_cuda.run.inputs import Bits
from hast_cuda.run.pipeline import estimate, zero_shot_quantize
from hast_cuda.run.quantized import QuantizationResult
from hast_cuda.run.settings import (
    image_store,  # noqa: F401
    read_config,
    read_finetune_config,  # noqa: F401
    read_first_images,  # noqa: F401
    read_images,
    read_recipe,
    read_synthesis_config,  # noqa: F401
)
from hast_cuda.run.student import load, load_student, save, save_student
from hast_cuda.run.tensorboard import TensorBoardLog, require_tensorboard  # noqa: F401
from hast_cuda.run.together import check_same_work  # noqa: F401

__all__ = [
    "Bits",
    "Estimate",
    "QuantizationResult",
    "RunDirectory",
    "estimate",
    "infer_shape",
    "load",
    "load_student",
    "read_config",
    "read_images",
    "read_recipe",
    "save",
    "save_student",
    "zero_shot_quantize",
]
