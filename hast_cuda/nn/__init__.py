"""Quantized modules, and the walk that puts them into a network."""

from __future__ import annotations

from hast_cuda.nn.activation import FakeQuantActivation
from hast_cuda.nn.batch_norm_ranges import batch_norm_ranges
from hast_cuda.nn.calibrate import (
    activation_quantizers,
    calibrate,
    freeze_ranges,
    shrink_ranges,
    unfreeze_ranges,
)
from hast_cuda.nn.fused_batch_norm import FusedBatchNorm2d
from hast_cuda.nn.layers import FakeQuantConv2d, FakeQuantLinear, quantized_once
from hast_cuda.nn.matched_batch_norm import BatchStatistics, MatchedBatchNorm2d
from hast_cuda.nn.merge import Merged, Tap, merge_batch_norms, warn_unmerged
from hast_cuda.nn.quantize import Override, quantize
from hast_cuda.nn.statistics import has_running_statistics, require_batch_norm
from hast_cuda.nn.table import QuantizationTable, quantization_table
from hast_cuda.nn.tracing import CannotMergeError

__all__ = [
    "BatchStatistics",
    "CannotMergeError",
    "FakeQuantActivation",
    "FakeQuantConv2d",
    "FakeQuantLinear",
    "FusedBatchNorm2d",
    "MatchedBatchNorm2d",
    "Merged",
    "Override",
    "QuantizationTable",
    "Tap",
    "activation_quantizers",
    "batch_norm_ranges",
    "calibrate",
    "freeze_ranges",
    "has_running_statistics",
    "merge_batch_norms",
    "quantization_table",
    "quantize",
    "quantized_once",
    "require_batch_norm",
    "shrink_ranges",
    "unfreeze_ranges",
    "warn_unmerged",
]
