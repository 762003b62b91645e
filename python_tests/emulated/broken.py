"""Builds broken.cu."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from emulated.build import CSRC, FLAGS, HERE, run_compiler


def build_broken(target: Path, flags: Sequence[str]) -> Path:
    """Compile the kernels with planted mistakes."""
    includes = [f"-I{HERE}", f"-I{CSRC}", "-DHAST_BACKEND=cuda", "-fvisibility=default"]
    run_compiler([*FLAGS, *includes, *flags, "-x", "c++", HERE / "broken.cu", HERE / "emulator.cpp", "-o", target])
    return target
