"""Eager twins of every op: the formulas of the paper in plain PyTorch, written to be read.

They are the oracle of the tests, the baseline of the benchmarks and what runs when the compiled
core is missing. Half types are computed in float32 and rounded once at the end, as the kernels do.
All are differentiable by autograd except where a straight-through gradient replaces the true one.
"""

from __future__ import annotations

from hast_cuda.ops.activations import activate
from hast_cuda.ops.arithmetic import RANGE_FLOOR, arithmetic_dtype, broadcast, quantize_integers, quantizer_parameters
from hast_cuda.ops.attention_loss import ENERGY_FLOOR
from hast_cuda.ops.attention_loss import attention_loss_reference as attention_loss
from hast_cuda.ops.attention_loss import energy_loss_reference as energy_loss
from hast_cuda.ops.batch_norm import affine
from hast_cuda.ops.batch_norm_activation import batch_norm_activation_reference as batch_norm_activation
from hast_cuda.ops.batch_norm_backward import batch_norm_backward_reference as batch_norm_backward
from hast_cuda.ops.batch_norm_match import batch_norm_match_reference as batch_norm_match
from hast_cuda.ops.channel_attention import channel_attention_reference as channel_attention
from hast_cuda.ops.distillation_loss import distillation_loss_reference as distillation_loss
from hast_cuda.ops.fake_quantize import fake_quantize_backward_reference as fake_quantize_backward
from hast_cuda.ops.fake_quantize import fake_quantize_reference as fake_quantize
from hast_cuda.ops.fake_quantize_weights import fake_quantize_weights_reference as fake_quantize_weights
from hast_cuda.ops.hard_sample_loss import LARGEST_PROBABILITY, label_log_probability
from hast_cuda.ops.hard_sample_loss import hard_sample_loss_reference as hard_sample_loss
from hast_cuda.ops.match_loss import match_loss_reference as match_loss
from hast_cuda.ops.plateau import plateau_step_reference as plateau_step
from hast_cuda.ops.soft_round_weights import rectified_sigmoid
from hast_cuda.ops.soft_round_weights import soft_round_weights_reference as soft_round_weights
from hast_cuda.ops.update_range import update_range_reference as update_range

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
    "rectified_sigmoid",
    "soft_round_weights",
    "update_range",
]
