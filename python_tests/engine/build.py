"""Compiles programs over the engine's sources, sanitized."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from emulated.build import CSRC, fingerprint, run_compiler

HERE = Path(__file__).parent
READER = [CSRC / "engine" / f"{name}.cpp" for name in ("json", "sha256", "fields", "safetensors", "read_step", "parse")]
# Not only what `undefined` has: a number that its integer cannot hold too.
FLAGS = [
    "-std=c++17",
    "-O1",
    "-g1",
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-Werror",
    "-fsanitize=address,undefined,float-cast-overflow",
    "-fno-sanitize-recover=all",
]


def compile_program(main: Path, sources: Sequence[Path], objects: Path) -> Path:
    """The program of ``main`` and ``sources``; one that ``objects`` has of the same text stays."""
    unit = [main, *sources]
    made = objects / f"{main.stem}.{fingerprint(unit, CSRC, FLAGS)}.o"  # named as what goes when unused
    if made.exists():
        made.touch()
    else:
        half = made.with_suffix(f".{os.getpid()}.part")
        run_compiler([*FLAGS, f"-I{CSRC}", *unit, "-o", half])
        half.replace(made)  # whole or not at all: others may look for it
    return made
