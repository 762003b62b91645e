"""Block reconstruction: rounding and steps fitted to the teacher's maps, block after block."""

from __future__ import annotations

from hast_cuda.reconstruction.checkpoint import BlockError, ReconstructionFile
from hast_cuda.reconstruction.config import ReconstructionConfig
from hast_cuda.reconstruction.loop import reconstruct

__all__ = ["BlockError", "ReconstructionConfig", "ReconstructionFile", "reconstruct"]
