"""Zero-shot quantization of pretrained CNNs (HAST, CVPR 2023) on fused C++/CUDA kernels."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from hast_cuda.checks.moved import moved_module
from hast_cuda.loops.execution import Execution
from hast_cuda.merged import MatchedBatchNorm2d
from hast_cuda.nn import (
    FakeQuantActivation,
    FakeQuantConv2d,
    FakeQuantLinear,
    Override,
    calibrate,
    freeze_ranges,
    quantization_table,
    quantize,
    shrink_ranges,
    unfreeze_ranges,
)
from hast_cuda.ops import (
    attention_loss,
    batch_norm_activation,
    batch_norm_match,
    build_info,
    channel_attention,
    distillation_loss,
    fake_quantize,
    fake_quantize_weights,
    hard_sample_loss,
    match_loss,
    new_range_state,
    quantize_activation,
)

try:
    __version__ = version("hast_cuda")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "Execution",
    "FakeQuantActivation",
    "FakeQuantConv2d",
    "FakeQuantLinear",
    "MatchedBatchNorm2d",
    "Override",
    "attention_loss",
    "batch_norm_activation",
    "batch_norm_match",
    "build_info",
    "calibrate",
    "channel_attention",
    "distillation_loss",
    "fake_quantize",
    "fake_quantize_weights",
    "freeze_ranges",
    "hard_sample_loss",
    "match_loss",
    "new_range_state",
    "quantization_table",
    "quantize",
    "quantize_activation",
    "shrink_ranges",
    "unfreeze_ranges",
]

for _module, _home, _names in (
    ("evaluate", "hast_cuda.data", ("evaluate",)),
    ("execution", "hast_cuda.loops.execution", ("Execution",)),
    ("zoo", "hast_cuda.teachers", ("input_spec", "load_teacher", "load_weights", "model_names")),
):
    moved_module(f"{__name__}.{_module}", _home, _names)
