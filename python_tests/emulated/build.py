"""Compiles the CUDA sources for the CPU, over the shim beside this file."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pybind11

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
DEFINES = ["-DHAST_WITH_CUDA", '-DHAST_CUDA_VERSION="emulated"', '-DHAST_CUDA_ARCHITECTURES="none"']
FLAGS = [
    "-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off",
    # longjmp between stacks looks like an attack to fortified libraries
    "-U_FORTIFY_SOURCE", "-Wno-unknown-pragmas", '-DHAST_VERSION="emulated"',
]  # fmt: skip


def compiler() -> str | None:
    """The C++ compiler to use, or None."""
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")


def _sources() -> list[tuple[Path, str]]:
    """Every file of the module with the backend it is compiled for."""
    host = [(path, "host") for path in sorted(CSRC.glob("bindings*.cpp"))]
    kernels = [(path, "cuda") for path in sorted(CSRC.glob("*.cu"))]
    twins = [
        (CSRC / f"{path.stem}.cpp", "cpu_baseline")
        for path, _ in kernels
        if (CSRC / f"{path.stem}.cpp").exists()
    ]
    tables = [(CSRC / "backend_table.cpp", backend) for backend in ("cuda", "cpu_baseline")]
    return [*host, *kernels, *twins, *tables, (CSRC / "backend.cpp", "host")]


def build(folder: Path) -> ModuleType:
    """The core with emulated CUDA kernels as device 0, compiled in ``folder`` (about a minute)."""
    includes = [f"-I{path}" for path in (HERE, CSRC, pybind11.get_include())]
    includes.append(f"-I{sysconfig.get_paths()['include']}")

    def compile_one(job: tuple[Path, str]) -> Path:
        source, backend = job
        target = folder / f"{source.name}.{backend}.o"
        command = [
            str(compiler()), *FLAGS, *DEFINES, *includes, f"-DHAST_BACKEND={backend}",
            "-x", "c++", "-c", str(source), "-o", str(target),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, text=True)
        return target

    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_one, _sources()))
        module = folder / f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"
        link = [str(compiler()), "-shared", *map(str, objects), "-o", str(module)]
        subprocess.run(link, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"{' '.join(error.cmd)}\n{error.stderr}") from error
    spec = importlib.util.spec_from_file_location("_core", module)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded
