"""Quantization without data and without training: DFQ (ICCV 2019) and SQuant (ICLR 2022).

The steps can be used one by one on any network, or as a configuration::

    prepared = prepare(teacher, config)
    student = hast_cuda.quantize(prepared, 4, 4)
    hast_cuda.moments.batch_norm_ranges(student, config.range_width)  # or hast_cuda.calibrate
    finish(student, prepared, config)
"""

from __future__ import annotations

from hast_cuda.posttraining.bias import absorb_biases, correct_biases
from hast_cuda.posttraining.equalize import equalize
from hast_cuda.posttraining.equalize_activations import equalize_activations
from hast_cuda.posttraining.fold import fold_batch_norms, replace_relu6
from hast_cuda.posttraining.passes import PostTrainingConfig, finish, prepare
from hast_cuda.posttraining.squant import squant

__all__ = [
    "PostTrainingConfig",
    "absorb_biases",
    "correct_biases",
    "equalize",
    "equalize_activations",
    "finish",
    "fold_batch_norms",
    "prepare",
    "replace_relu6",
    "squant",
]
