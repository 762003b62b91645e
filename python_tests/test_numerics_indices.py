"""Indices of large tensors: 64 bits in every kernel, and no grid that wraps around unnoticed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from emulated.build import CSRC, FLAGS, HERE, compiler
from gates import cannot_run

KERNEL = """
#include "common/cuda_launch.h"
__global__ void kernel(float* x) {{ x[{index}] = 0.0f; }}
"""
# The emulated build compiles every kernel with these types: what is refused here is refused there.
TOO_NARROW = [
    "blockIdx.x * blockDim.x + threadIdx.x", "blockDim.x * blockIdx.x", "gridDim.x * blockIdx.x",
    "2 * blockIdx.y + 1", "static_cast<int>(threadIdx.x) * gridDim.x",
]  # fmt: skip
WIDE = [
    "static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x",
    "int64_t{5} * gridDim.x",
    "blockIdx.x / 2 + threadIdx.y * blockDim.x",
]
HUGE = 2**37  # images: more blocks than a grid can have, whatever the kernel
FLOAT32, NO_ACTIVATION, CUDA = 0, 0, 0


def compiles(index: str, folder: Path) -> subprocess.CompletedProcess[str]:
    source = folder / "kernel.cpp"
    source.write_text(KERNEL.format(index=index), encoding="utf-8")
    includes = [f"-I{HERE}", f"-I{CSRC}"]
    command = [str(compiler()), *FLAGS, *includes, "-DHAST_BACKEND=cuda", "-fsyntax-only"]
    return subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("index", TOO_NARROW)
def test_a_product_of_32_bits_does_not_compile(index: str, tmp_path: Path) -> None:
    if compiler() is None:
        cannot_run("there is no C++ compiler")
    done = compiles(index, tmp_path)
    assert done.returncode != 0
    assert "GridNumber" in done.stderr
    assert "deleted" in done.stderr


@pytest.mark.parametrize("index", WIDE)
def test_a_product_of_64_bits_compiles(index: str, tmp_path: Path) -> None:
    if compiler() is None:
        cannot_run("there is no C++ compiler")
    done = compiles(index, tmp_path)
    assert done.returncode == 0, done.stderr


def attention(core: Any) -> None:
    """A channels-last map of 2^37 images of two channels and two pixels."""
    core.channel_attention([16], [16], [HUGE], [2], [2], [True], FLOAT32, CUDA, 0)


def activation(core: Any, channels_last: bool) -> None:
    core.batch_norm_activation(
        16, 0, 0, 16, 16, 0, 16, 16, 0, 0, 1e-5, 0, 4, 16, 16, FLOAT32, HUGE, 2, 512, channels_last,
        NO_ACTIVATION, CUDA, 0,
    )  # fmt: skip


def statistics(core: Any) -> None:
    """More planes' channels than a grid has blocks."""
    core.batch_norm_match(
        16, 0, 16, 16, 16, 16, 16, 0, 0, 1e-5, 16, 16, FLOAT32, 1, HUGE, 2, NO_ACTIVATION, CUDA, 0
    )


@pytest.mark.parametrize(
    "call",
    [
        attention, statistics, lambda core: activation(core, False),
        lambda core: activation(core, True),
    ],
)  # fmt: skip
def test_too_many_blocks_are_an_error(
    emulated_module: ModuleType, call: Callable[[Any], None]
) -> None:
    # No memory lies behind these addresses: the error comes before the launch.
    with pytest.raises(RuntimeError, match=r"more than 2\^31 - 1 blocks: divide the tensor"):
        call(emulated_module)
