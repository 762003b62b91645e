"""Eager twins of every op: the formulas of the paper in plain PyTorch, written to be read.

They are the oracle of the tests, the baseline of the benchmarks and what runs when the compiled
core is missing. Half types are computed in float32 and rounded once at the end, as the kernels do.
All are differentiable by autograd except where a straight-through gradient replaces the true one.
"""

from __future__ import annotations

from hast_cuda.ops._reference_batch_norm import (
    affine,
    batch_norm_activation,
    batch_norm_backward,
    batch_norm_match,
    channel_attention,
)
from hast_cuda.ops._reference_losses import (
    ENERGY_FLOOR,
    LARGEST_PROBABILITY,
    attention_loss,
    distillation_loss,
    energy_loss,
    hard_sample_loss,
    label_log_probability,
    match_loss,
    plateau_step,
)
from hast_cuda.ops._reference_quantization import (
    RANGE_FLOOR,
    activate,
    arithmetic_dtype,
    broadcast,
    fake_quantize,
    fake_quantize_backward,
    fake_quantize_weights,
    quantize_integers,
    quantizer_parameters,
    update_range,
)

__all__ = [
    "ENERGY_FLOOR",
    "LARGEST_PROBABILITY",
    "RANGE_FLOOR",
    "activate",
    "affine",
    "arithmetic_dtype",
    "attention_loss",
    "batch_norm_activation",
    "batch_norm_backward",
    "batch_norm_match",
    "broadcast",
    "channel_attention",
    "distillation_loss",
    "energy_loss",
    "fake_quantize",
    "fake_quantize_backward",
    "fake_quantize_weights",
    "hard_sample_loss",
    "label_log_probability",
    "match_loss",
    "plateau_step",
    "quantize_integers",
    "quantizer_parameters",
    "update_range",
]
