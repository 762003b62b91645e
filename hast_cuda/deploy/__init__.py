"""Quantized networks on the machines that use them: numpy is all that this needs."""

from __future__ import annotations

from hast_cuda.deploy.engine import Engine, load
from hast_cuda.deploy.file import EngineFile, read_file

__all__ = ["Engine", "EngineFile", "load", "read_file"]
