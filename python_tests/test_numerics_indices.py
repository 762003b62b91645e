"""Indices of large tensors: 64 bits in every kernel, and no grid that wraps around unnoticed."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from emulated.build import CSRC, FLAGS, HERE, compiler
from gates import cannot_run

HEADER = '#include "common/cuda_launch.h"'
# The emulated build compiles every kernel with these types: what is refused here is refused there.
TOO_NARROW = [
    "blockIdx.x * blockDim.x + threadIdx.x",
    "blockDim.x * blockIdx.x",
    "gridDim.x * blockIdx.x",
    "2 * blockIdx.y + 1",
    "static_cast<int>(threadIdx.x) * gridDim.x",
]
WIDE = [
    "static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x",
    "int64_t{5} * gridDim.x",
    "blockIdx.x / 2 + threadIdx.y * blockDim.x",
]
HUGE = 2**37  # images: more blocks than a grid can have, whatever the kernel
FLOAT32, NO_ACTIVATION, CUDA = 0, 0, 0


def test_a_product_of_32_bits_does_not_compile(tmp_path: Path) -> None:
    """One file, a kernel a line: only the lines of narrow products are refused, and each is."""
    if compiler() is None:
        cannot_run("there is no C++ compiler")
    kernels = [
        f"__global__ void kernel{number}(float* x) {{ x[{index}] = 0.0f; }}"
        for number, index in enumerate([*TOO_NARROW, *WIDE])
    ]
    source = tmp_path / "kernel.cpp"
    source.write_text("\n".join([HEADER, *kernels]), encoding="utf-8")
    includes = [f"-I{HERE}", f"-I{CSRC}", "-DHAST_BACKEND=cuda", "-fsyntax-only"]
    command = [str(compiler()), *FLAGS, *includes, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    errors = re.findall(r"kernel\.cpp:(\d+):\d+: error: (.*)", done.stderr)
    assert {int(line) - 2 for line, _ in errors} == set(range(len(TOO_NARROW))), done.stderr
    assert all("GridNumber" in text for _, text in errors)
    assert "deleted" in done.stderr


PLACE = {"dtype": FLOAT32, "device": CUDA, "stream": 0}
STATISTICS = {"running_mean": 16, "running_var": 16, "weight": 0, "bias": 0, "eps": 1e-5}
REDUCED = {"scratch": 16, "counters": 16, "activation": NO_ACTIVATION, **STATISTICS, **PLACE}


def attention(core: Any) -> None:
    """A channels-last map of 2^37 images of two channels and two pixels."""
    shape = {"batches": [HUGE], "channels": [2], "spatial": [2], "channels_last": [True]}
    core.channel_attention(maps=[16], energies=[16], **shape, **PLACE)


def activation(core: Any, channels_last: bool) -> None:
    shape = {"images": HUGE, "channels": 2, "spatial": 512, "channels_last": channels_last}
    outputs = {"y": 16, "energy": 16, "map": 0}
    core.batch_norm_activation(x=16, residual=0, target=0, **outputs, range=0, bits=4, **shape, **REDUCED)


def statistics(core: Any) -> None:
    """More planes' channels than a grid has blocks."""
    outputs, shape = {"y": 16, "mean": 16, "var": 16}, {"outer": 1, "channels": HUGE, "inner": 2}
    core.batch_norm_match(x=16, residual=0, **outputs, **shape, **REDUCED)


@pytest.mark.parametrize(
    "call", [attention, statistics, lambda core: activation(core, False), lambda core: activation(core, True)]
)
def test_too_many_blocks_are_an_error(emulated_module: ModuleType, call: Callable[[Any], None]) -> None:
    # No memory lies behind these addresses: the error comes before the launch.
    with pytest.raises(RuntimeError, match=r"more than 2\^31 - 1 blocks: divide the tensor"):
        call(emulated_module)
