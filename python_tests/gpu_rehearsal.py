"""A pytest plugin: the tests that need a GPU run on a made-up one, as far as anything can run there.

"cuda" is the CPU, the kernels are the emulated ones (HAST_EMULATED_MODULE), streams and devices are
faked_cuda's. A test ends where a CUDA graph is replayed: what it calls until then exists, takes
what it is given and does what the test says. Loaded with ``-p gpu_rehearsal``.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from emulated.build import load
from emulated.device import emulate
from faked_cuda import Beyond, FakedCuda
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from typing_extensions import Self

from hast_cuda import checks
from hast_cuda.ops import _registry, _workspace

PATCH = pytest.MonkeyPatch()
FAKED = FakedCuda(1)


def on_cpu(value: Any) -> Any:
    """The CPU in place of a GPU; everything else as it is."""
    named = isinstance(value, torch.device) or (isinstance(value, str) and value.startswith("cuda"))
    return torch.device("cpu") if named and torch.device(value).type == "cuda" else value


class RandomNumbers(torch.Generator):
    """Of the CPU, whatever it is asked for."""

    def __new__(cls, device: Any = "cpu") -> Self:
        """Make one."""
        return super().__new__(cls, on_cpu(device))  # type: ignore[call-arg]


class Mode(TorchFunctionMode):
    """Tensors of the GPU are tensors of the CPU; while synchronising is an error, values are not read."""

    synchronising = "default"

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func`` with other devices."""
        if func is torch.device:
            return func(*args, **(kwargs or {}))
        if func in (torch.Tensor.item, torch.Tensor.__float__):
            if self.synchronising == "error":
                raise RuntimeError("called a synchronizing CUDA operation")
            FAKED.read()
        return func(*tree_map(on_cpu, args), **tree_map(on_cpu, kwargs or {}))


MODE, ENTERED = Mode(), ExitStack()


def beyond() -> None:
    """In place of what looks for a driver."""
    raise Beyond("there is no driver")


NAMES = {
    "_lazy_init": beyond,
    "_sleep": lambda cycles: None,
    "get_rng_state": lambda device: torch.get_rng_state(),
    "set_rng_state": lambda state, device: None,
    "memory_stats": lambda device: {"allocation.all.allocated": 0},
    "set_sync_debug_mode": lambda mode: setattr(MODE, "synchronising", mode),
}


def pytest_configure() -> None:
    """Before any test file is imported: whether there is a GPU is asked there."""
    module = load(Path(os.environ["HAST_EMULATED_MODULE"]))
    counters = _workspace.counters
    core = emulate(PATCH, module, 0)
    PATCH.setattr(_workspace, "counters", counters)  # the real ones, as on a GPU
    PATCH.setattr(_workspace, "device_and_stream", lambda _: (0, FAKED.stream_of(0).cuda_stream))
    for room in (_registry, _workspace):
        PATCH.setattr(room, "core", core)
    FAKED.install(PATCH)
    PATCH.setattr(checks.tensors, "known_values", lambda x: False)  # they are on a GPU
    PATCH.setattr(torch, "Generator", RandomNumbers)
    for name, value in NAMES.items():
        PATCH.setattr(torch.cuda, name, value)
    ENTERED.enter_context(MODE)


def pytest_unconfigure() -> None:
    """Put everything back."""
    ENTERED.close()
    PATCH.undo()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """A test that comes to a replay, or to a driver, has done all that it can do here."""
    try:
        return (yield)
    except Beyond:
        return True
