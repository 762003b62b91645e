"""Quantized modules, and the walk that puts them into a network."""

from __future__ import annotations

from hast_cuda.checks.moved import moved_names
from hast_cuda.nn.activation import FakeQuantActivation
from hast_cuda.nn.calibrate import activation_quantizers, calibrate, freeze_ranges, shrink_ranges, unfreeze_ranges
from hast_cuda.nn.layers import FakeQuantConv2d, FakeQuantLinear
from hast_cuda.nn.layers import quantized_once as quantized_once
from hast_cuda.nn.override import Override
from hast_cuda.nn.placement import suitable_placement
from hast_cuda.nn.quantize import quantize
from hast_cuda.nn.table import QuantizationTable as QuantizationTable
from hast_cuda.nn.table import quantization_table

__all__ = [
    "FakeQuantActivation",
    "FakeQuantConv2d",
    "FakeQuantLinear",
    "Override",
    "activation_quantizers",
    "calibrate",
    "freeze_ranges",
    "quantization_table",
    "quantize",
    "shrink_ranges",
    "suitable_placement",
    "unfreeze_ranges",
]

__getattr__ = moved_names(
    __name__,
    {
        "BatchStatistics": "hast_cuda.merged",
        "CannotMergeError": "hast_cuda.networks",
        "FusedBatchNorm2d": "hast_cuda.merged",
        "MatchedBatchNorm2d": "hast_cuda.merged",
        "Merged": "hast_cuda.merged",
        "Tap": "hast_cuda.networks",
        "batch_norm_ranges": "hast_cuda.moments",
        "has_running_statistics": "hast_cuda.networks",
        "merge_batch_norms": "hast_cuda.merged",
        "require_batch_norm": "hast_cuda.networks",
        "warn_unmerged": "hast_cuda.merged",
    },
)
