"""The faster equal network: every BatchNorm takes along what follows it."""

from __future__ import annotations

from hast_cuda.merged.fused_batch_norm import FusedBatchNorm2d
from hast_cuda.merged.matched_batch_norm import BatchStatistics, MatchedBatchNorm2d
from hast_cuda.merged.merge import Merged as Merged
from hast_cuda.merged.merge import merge_batch_norms
from hast_cuda.merged.merge import warn_unmerged as warn_unmerged

__all__ = ["BatchStatistics", "FusedBatchNorm2d", "MatchedBatchNorm2d", "merge_batch_norms"]
