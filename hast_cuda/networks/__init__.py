"""Looking into any network: its graph, its BatchNorm statistics, its blocks, maps on their way."""

from __future__ import annotations

from hast_cuda.networks.blocks import feature_layers
from hast_cuda.networks.statistics import has_running_statistics, require_batch_norm
from hast_cuda.networks.taps import Tap
from hast_cuda.networks.tracing import CannotMergeError

__all__ = ["CannotMergeError", "Tap", "feature_layers", "has_running_statistics", "require_batch_norm"]
