"""Compiles the CUDA sources for the CPU, over the shim beside this file."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType

import pybind11

from emulated.shared_memory import register_shared_memory

HERE = Path(__file__).parent
KEPT = 14 * 86_400  # seconds that an object is kept after its last use
CSRC = HERE.parents[1] / "csrc"
DEFINES = ["-DHAST_WITH_CUDA", '-DHAST_CUDA_VERSION="emulated"', '-DHAST_CUDA_ARCHITECTURES="none"']
FLAGS = [
    "-std=c++17",
    "-O1",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    # longjmp between stacks looks like an attack to fortified libraries
    "-U_FORTIFY_SOURCE",
    "-Wno-unknown-pragmas",
    '-DHAST_VERSION="emulated"',
]
# As CMakeLists.txt has them for the baseline, -O1 among FLAGS: vectorised sums are other sums than serial ones.
TWIN_FLAGS = ["-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd"]
AVX2_FLAGS = ["-O3", "-mavx2", "-mfma", "-mf16c"]
if os.environ.get("HAST_WERROR") == "ON":
    # Conditions that depend on kernel arguments make g++ guess wrong about what is initialised.
    FLAGS += ["-Wall", "-Wextra", "-Wconversion", "-Werror", "-Wno-maybe-uninitialized"]


def compiler() -> str | None:
    """The C++ compiler to use, or None."""
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")


def sources(csrc: Path = CSRC) -> list[tuple[list[Path], str]]:
    """Every translation unit of the module with the backend it is compiled for."""
    host = [*sorted(csrc.glob("bindings*.cpp")), csrc / "backend.cpp"]
    kernels = sorted(csrc.glob("*.cu"))
    twins = [twin for path in kernels if (twin := path.with_suffix(".cpp")).exists()]
    tables = [([csrc / "backend_table.cpp"], backend) for backend in ("cuda", "cpu_baseline")]
    return [
        (host, "host"),  # as one: pybind11 takes longer to read than the bindings to compile
        *(([path], "cuda") for path in [*kernels, HERE / "emulator.cpp"]),
        *(([path], "cpu_baseline") for path in twins),
        *tables,
    ]


@cache
def toolchain() -> str:
    """Versions of what is not in the project and goes into an object."""
    version = subprocess.run([str(compiler()), "--version"], capture_output=True, text=True, check=True).stdout
    return f"{version} pybind11 {pybind11.__version__} {sysconfig.get_config_var('SOABI')}"


def fingerprint(unit: Sequence[Path], csrc: Path, flags: Sequence[str]) -> str:
    """Of the tools, the flags and the text of a translation unit, with what it includes of the project."""
    seen: dict[Path, bytes] = {}
    waiting = list(unit)
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen[path] = path.read_bytes()
            names = re.findall(rb'#include ["<]([^">]+)[">]', seen[path])
            found = [folder / name.decode() for name in names for folder in (csrc, HERE)]
            waiting += [path for path in found if path.is_file()]
    text = [toolchain().encode(), " ".join(flags).encode(), *(seen[path] for path in sorted(seen))]
    return hashlib.sha256(b"\0".join(text)).hexdigest()[:16]


def run_compiler(command: Sequence[str | Path], text: str = "") -> None:
    """Run it on files or on ``text``; a failure shows the compiler's message."""
    words = [str(compiler()), *map(str, command)]
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}\n{done.stderr}")


def compile_module(
    folder: Path,
    kernel_flags: Sequence[str] = (),
    csrc: Path = CSRC,
    objects: Path | None = None,
    *,
    twin_flags: Sequence[str] = (),
) -> Path:
    """Compile the core with emulated CUDA kernels.

    Objects that the folder ``objects`` (default: ``folder``) has of the same text, flags and tools
    stay as they are; what nobody used for two weeks goes.

    ``kernel_flags`` are for kernels alone, CUDA and CPU; ``twin_flags`` for the CPU's, e.g. another
    instruction set.
    """
    includes = [f"-I{path}" for path in (HERE, csrc, pybind11.get_include())]
    includes.append(f"-I{sysconfig.get_paths()['include']}")

    def compile_one(job: tuple[list[Path], str]) -> Path:
        unit, backend = job
        flags = [*FLAGS, *DEFINES, f"-DHAST_BACKEND={backend}"]
        if backend == "host":
            flags.append("-O0")  # compiling it costs more than running it
        if backend == "cpu_baseline":
            flags += [*TWIN_FLAGS, *twin_flags]
        if backend != "host":
            flags += kernel_flags
        made = kept / f"{unit[0].name}.{backend}.{fingerprint(unit, csrc, flags)}.o"
        if made.exists():
            made.touch()
        else:
            text = "".join(f'#include "{path}"\n' for path in unit)
            half = made.with_suffix(f".{os.getpid()}.part")
            run_compiler([*flags, *includes, "-x", "c++", "-c", "-", "-o", half], text)
            half.replace(made)  # whole or not at all: others may look for it
        return made

    kept = objects or folder
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        linked = list(pool.map(compile_one, sources(csrc)))
    module = folder / f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"
    run_compiler(["-shared", *kernel_flags, *linked, "-o", module])
    for old in [path for path in kept.glob("*.[op]*") if path.stat().st_mtime < time.time() - KEPT]:
        old.unlink(missing_ok=True)
    return module


def load(module: Path) -> ModuleType:
    """Import a compiled module; kernels then find their shared memory poisoned."""
    spec = importlib.util.spec_from_file_location("_core", module)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    register_shared_memory(module)
    return loaded
