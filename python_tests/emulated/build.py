"""Compiles the CUDA sources for the CPU, over the shim beside this file."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pybind11

from emulated.shared_memory import register_shared_memory

HERE = Path(__file__).parent
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
# As CMakeLists.txt has them: vectorised sums are other sums than serial ones.
TWIN_FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd"]
AVX2_FLAGS = ["-mavx2", "-mfma", "-mf16c"]
if os.environ.get("HAST_WERROR") == "ON":
    # Conditions that depend on kernel arguments make g++ guess wrong about what is initialised.
    FLAGS += ["-Wall", "-Wextra", "-Wconversion", "-Werror", "-Wno-maybe-uninitialized"]


def compiler() -> str | None:
    """The C++ compiler to use, or None."""
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")


def sources(csrc: Path = CSRC) -> list[tuple[Path, str]]:
    """Every file of the module with the backend it is compiled for."""
    host = [(path, "host") for path in sorted(csrc.glob("bindings*.cpp"))]
    kernels = [(path, "cuda") for path in sorted(csrc.glob("*.cu"))]
    twins = [(csrc / f"{path.stem}.cpp", "cpu_baseline") for path, _ in kernels if (csrc / f"{path.stem}.cpp").exists()]
    tables = [(csrc / "backend_table.cpp", backend) for backend in ("cuda", "cpu_baseline")]
    return [*host, *kernels, *twins, *tables, (csrc / "backend.cpp", "host")]


def run_compiler(command: Sequence[str | Path]) -> None:
    """Run it; a failure shows the compiler's message."""
    command = [str(compiler()), *map(str, command)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def compile_module(
    folder: Path,
    kernel_flags: Sequence[str] = (),
    csrc: Path = CSRC,
    reuse: Path | None = None,
    *,
    twin_flags: Sequence[str] = (),
) -> Path:
    """Compile the core with emulated CUDA kernels; objects found in ``reuse`` are taken from there.

    ``kernel_flags`` are for kernels alone, CUDA and CPU, whose objects are never reused with them;
    ``twin_flags`` for the CPU's, e.g. another instruction set.
    """
    includes = [f"-I{path}" for path in (HERE, csrc, pybind11.get_include())]
    includes.append(f"-I{sysconfig.get_paths()['include']}")

    def compile_one(job: tuple[Path, str]) -> Path:
        source, backend = job
        flags = [] if backend == "host" else list(kernel_flags)
        twin = [*TWIN_FLAGS, *twin_flags] if backend == "cpu_baseline" else []
        name = f"{source.name}.{backend}.o"
        own = flags or (twin_flags and backend == "cpu_baseline")
        if reuse is not None and not own and (reuse / name).exists():
            return reuse / name
        backend_define = f"-DHAST_BACKEND={backend}"
        run_compiler(
            [*FLAGS, *twin, *flags, *DEFINES, *includes, backend_define, "-x", "c++", "-c", source, "-o", folder / name]
        )
        return folder / name

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sources(csrc)))
    module = folder / f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"
    run_compiler(["-shared", *kernel_flags, *objects, "-o", module])
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
