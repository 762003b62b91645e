"""Compiles programs over the engine's sources, sanitized."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from emulated.build import CSRC, fingerprint, run_compiler

HERE = Path(__file__).parent
EXECUTOR = [
    CSRC / "engine" / f"{name}.cpp" for name in ("layout", "ending", "convolution", "others", "isa", "executor")
]
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


# The headers of some versions of GCC warn of themselves.
QUIET = ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]
# What kernels.cpp is compiled with for each instruction set, as in csrc/engine/CMakeLists.txt.
SETS = {
    "portable": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512_vnni": ["-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni"],
}


def compile_program(main: Path, sources: Sequence[Path], objects: Path) -> Path:
    """The program of ``main`` and ``sources``; one that ``objects`` has of the same text stays."""
    return _compiled(main.stem, [main, *sources], [], objects)


def compile_engine(main: Path, isa: str, objects: Path) -> Path:
    """The program of ``main`` and the whole engine with the kernels of one instruction set, and the portable ones."""
    sets = dict.fromkeys(("portable", isa))
    kernels = [
        _compiled(
            name, [CSRC / "engine" / "kernels.cpp"], ["-c", f"-DHAST_ENGINE_ISA={name}", *QUIET, *SETS[name]], objects
        )
        for name in sets
    ]
    found = [] if isa == "portable" else [f"-DHAST_ENGINE_{isa.upper()}"]
    return _compiled(f"{main.stem}-{isa}", [main, *READER, *EXECUTOR], ["-fopenmp", *found], objects, kernels)


def _compiled(name: str, unit: Sequence[Path], more: Sequence[str], objects: Path, linked: Sequence[Path] = ()) -> Path:
    flags = [*FLAGS, *more, *(path.name for path in linked)]
    made = objects / f"{name}.{fingerprint(unit, CSRC, flags)}.o"  # named as what goes when unused
    if made.exists():
        made.touch()
    else:
        half = made.with_suffix(f".{os.getpid()}.part")
        run_compiler([*FLAGS, *more, f"-I{CSRC}", *unit, *linked, "-o", half])
        half.replace(made)  # whole or not at all: others may look for it
    return made
