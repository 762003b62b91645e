"""What CMakeLists.txt builds for: the GPU of the machine alone, or every one; and whose warnings are errors."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11
import pytest
from gates import cannot_run

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.gate


def configure(folder: Path, gpus: str | None, **settings: str) -> subprocess.CompletedProcess[str]:
    """CMake's first half, on a machine whose nvidia-smi lists ``gpus``."""
    if shutil.which("cmake") is None or shutil.which("nvcc") is None:
        cannot_run("there is no cmake or no nvcc")
    tool = folder / "bin" / "nvidia-smi"
    tool.parent.mkdir(parents=True)
    tool.write_text("#!/bin/sh\nexit 9\n" if gpus is None else f"#!/bin/sh\nprintf '{gpus}'\n")
    tool.chmod(0o755)
    own = {"CUDAARCHS", "TORCH_CUDA_ARCH_LIST"}
    environment = {name: value for name, value in os.environ.items() if name not in own}
    environment["PATH"] = f"{tool.parent}{os.pathsep}{environment['PATH']}"
    flags = {"HAST_CUDA": "ON", "CMAKE_EXPORT_COMPILE_COMMANDS": "ON", "pybind11_DIR": pybind11.get_cmake_dir()}
    flags |= {"Python_EXECUTABLE": sys.executable, **settings}
    command = [
        "cmake",
        "-G",
        "Ninja",
        "-S",
        str(ROOT),
        "-B",
        str(folder / "build"),
        *(f"-D{k}={v}" for k, v in flags.items()),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def kernels(folder: Path) -> list[str]:
    """The commands that compile CUDA sources."""
    text = (folder / "build" / "compile_commands.json").read_text(encoding="utf-8")
    return [entry["command"] for entry in json.loads(text) if entry["file"].endswith(".cu")]


def test_a_machine_with_gpus_builds_for_those(tmp_path: Path) -> None:
    done = configure(tmp_path, "9.0\\n9.0\\n8.6\\n")
    assert done.returncode == 0, done.stdout + done.stderr
    for command in kernels(tmp_path):
        assert set(re.findall(r"arch=compute_(\d+)", command)) == {"90", "86"}
        assert "-Werror" not in command  # of a compiler that nobody has tried


def test_a_release_builds_for_all(tmp_path: Path) -> None:
    done = configure(tmp_path, "9.0\\n", HAST_CUDA_ARCH="all", HAST_WERROR="ON")
    assert done.returncode == 0, done.stdout + done.stderr
    for command in kernels(tmp_path):
        assert "-Werror=all-warnings" in command
        assert "all-major" in command or len(set(re.findall(r"arch=compute_(\d+)", command))) > 3


@pytest.mark.parametrize(
    ("gpus", "choice", "message"),
    [(None, "native", "nvidia-smi finds no GPU"), ("9.0\\n", "mine", "HAST_CUDA_ARCH must be AUTO, native or all")],
)
def test_what_cannot_be_built_for_is_refused(tmp_path: Path, gpus: str | None, choice: str, message: str) -> None:
    done = configure(tmp_path, gpus, HAST_CUDA_ARCH=choice)
    assert done.returncode != 0
    assert message in " ".join(done.stderr.split())
