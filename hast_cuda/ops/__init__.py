"""The fused operators: each works on CPU and CUDA tensors, under autograd, compile and export."""

from __future__ import annotations

from hast_cuda.ops._registry import build_info, cuda_devices
from hast_cuda.ops.attention_loss import attention_energy_loss, attention_loss
from hast_cuda.ops.batch_norm_activation import batch_norm_activation
from hast_cuda.ops.batch_norm_match import batch_norm_match
from hast_cuda.ops.channel_attention import channel_attention, channel_attentions
from hast_cuda.ops.distillation_loss import distillation_loss
from hast_cuda.ops.fake_quantize import fake_quantize
from hast_cuda.ops.fake_quantize_weights import fake_quantize_weights
from hast_cuda.ops.hard_sample_loss import hard_sample_loss
from hast_cuda.ops.match_loss import match_loss
from hast_cuda.ops.plateau import new_plateau_state, plateau_step
from hast_cuda.ops.quantize_activation import quantize_activation
from hast_cuda.ops.soft_round_weights import soft_round_weights
from hast_cuda.ops.update_range import new_range_state

__all__ = [
    "attention_energy_loss",
    "attention_loss",
    "batch_norm_activation",
    "batch_norm_match",
    "build_info",
    "channel_attention",
    "channel_attentions",
    "cuda_devices",
    "distillation_loss",
    "fake_quantize",
    "fake_quantize_weights",
    "hard_sample_loss",
    "match_loss",
    "new_plateau_state",
    "new_range_state",
    "plateau_step",
    "quantize_activation",
    "soft_round_weights",
]
