"""What flows through a network, from BatchNorm parameters alone, and ranges from that."""

from __future__ import annotations

from hast_cuda.moments.batch_norm_ranges import batch_norm_ranges

__all__ = ["batch_norm_ranges"]
