"""Compiles programs over the engine's sources, sanitized."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from emulated.build import CSRC, fingerprint, run_compiler

HERE = Path(__file__).parent
READER = [
    "json",
    "sha256",
    "fields",
    "safetensors",
    "step_tensors",
    "read_activation",
    "read_window",
    "read_step",
    "parse",
]
EXECUTOR = [
    "layout",
    "lives",
    "images",
    "ending",
    "convolution",
    "pack_dense",
    "pack_depthwise",
    "others",
    "isa",
    "executor",
]
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
# The portable kernels beside others are linked, and never run.
UNUSED = ["-fno-sanitize=all", "-O0"]
# What kernels.cpp is compiled with for each instruction set, as in csrc/engine/CMakeLists.txt.
SETS = {
    "portable": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512_vnni": ["-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni"],
}


def compile_program(main: Path, sources: Sequence[str], objects: Path) -> Path:
    """The program of ``main`` and of files of the engine; what ``objects`` has of the same text stays."""
    return _compiled(main.stem, [main], [], objects, CSRC, _objects(sources, [], objects, CSRC))


def compile_engine(main: Path, isa: str, objects: Path, csrc: Path = CSRC, more: Sequence[str] = ()) -> Path:
    """The program of ``main`` and the whole engine with the kernels of one instruction set, and the portable ones."""
    kernels = [
        _compiled(
            name,
            _files(["kernels"], csrc),
            ["-c", f"-DHAST_ENGINE_ISA={name}", *QUIET, *SETS[name], *([] if name == isa else UNUSED), *more],
            objects,
            csrc,
        )
        for name in dict.fromkeys((isa, "portable"))  # of an inline function the linker takes the first, sanitized one
    ]
    found = [] if isa == "portable" else [f"-DHAST_ENGINE_{isa.upper()}"]
    own = ["-fopenmp", *found, *more]
    parts = [*_objects(READER, more, objects, csrc), *_objects(EXECUTOR, own, objects, csrc)]
    return _compiled(f"{main.stem}-{isa}", [main], own, objects, csrc, [*parts, *kernels])


def _objects(names: Sequence[str], more: Sequence[str], objects: Path, csrc: Path) -> list[Path]:
    """One of each file: the reader's are in both programs, and a planted mistake is in one."""
    return [_compiled(path.stem, [path], ["-c", *more], objects, csrc) for path in _files(names, csrc)]


def _files(names: Sequence[str], csrc: Path) -> list[Path]:
    return [csrc / "engine" / f"{name}.cpp" for name in names]


def _compiled(
    name: str, unit: Sequence[Path], more: Sequence[str], objects: Path, csrc: Path, linked: Sequence[Path] = ()
) -> Path:
    flags = [*FLAGS, *more, *(path.name for path in linked)]
    made = objects / f"{name}.{fingerprint(unit, csrc, flags)}.o"  # named as what goes when unused
    if made.exists():
        made.touch()
    else:
        half = made.with_suffix(f".{os.getpid()}.part")
        run_compiler([*FLAGS, *more, f"-I{csrc}", *unit, *linked, "-o", half])
        half.replace(made)  # whole or not at all: others may look for it
    return made
