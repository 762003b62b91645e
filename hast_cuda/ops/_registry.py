"""The ``hast_cuda`` operator library and the door to the compiled core.

Each op file defines its schemas here, gives one implementation for CPU and CUDA tensors that calls
the core, and a fake implementation for tracing. Without the core (a source checkout that was never
built) the eager reference takes its place, with one warning.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

LIBRARY = torch.library.Library("hast_cuda", "DEF")
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.float64: 3}


def _load_core() -> ModuleType | None:
    # torch is imported above, before the core: both then share torch's OpenMP pool.
    try:
        return importlib.import_module("hast_cuda._core")
    except ModuleNotFoundError as error:
        if error.name != "hast_cuda._core":
            raise
    warnings.warn(
        "hast_cuda was imported from a source tree without its compiled core: the slow eager "
        "reference is used. Run `pip install .` (and start Python elsewhere), or "
        "`pip install -e . --no-build-isolation`.",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


core: Any = _load_core()


def build_info() -> dict[str, str]:
    """How the core was built and what it runs on: version, compiler, cuda, architectures, ISA."""
    if core is None:
        return {"kind": "missing: eager reference ops"}
    return {"kind": "compiled", **core.build_info()}


def cuda_devices() -> int | None:
    """How many CUDA devices the core can use; None where nothing was compiled."""
    return None if core is None else int(core.cuda_device_count())


def register(
    schema: str,
    compiled: Callable[..., Any],
    reference: Callable[..., Any],
    fake: Callable[..., Any],
) -> Any:
    """Define one op and its CPU, CUDA and fake implementations; returns the callable overload."""
    name = schema[: schema.index("(")]
    LIBRARY.define(schema)
    implementation = reference if core is None else compiled
    LIBRARY.impl(name, implementation, "CPU")
    LIBRARY.impl(name, implementation, "CUDA")
    torch.library.register_fake(f"hast_cuda::{name}", fake, lib=LIBRARY)
    return getattr(torch.ops.hast_cuda, name).default


def _current_stream(device: int) -> int:
    return torch.cuda.current_stream(device).cuda_stream


# The private accessor is several times cheaper, but CPU-only builds of torch lack it.
_raw_stream: Callable[[int], int] = getattr(torch._C, "_cuda_getCurrentRawStream", _current_stream)


def device_and_stream(x: Tensor) -> tuple[int, int]:
    """Device index and raw current stream for the core; (-1, 0) on the CPU."""
    if x.device.type == "cpu":
        return -1, 0
    return x.device.index, _raw_stream(x.device.index)


def pointer(x: Tensor | None) -> int:
    """Address of the first element, 0 for an absent tensor."""
    return 0 if x is None else x.data_ptr()
