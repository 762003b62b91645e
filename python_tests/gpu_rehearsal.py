"""A pytest plugin: the tests that need a GPU run on a made-up one, as far as anything can run there.

"cuda" is the CPU, the kernels are the emulated ones (HAST_EMULATED_MODULE), streams and devices are
faked_cuda's. A test ends where a CUDA graph is replayed: what it calls until then exists, takes
what it is given and does what the test says. Loaded with ``-p gpu_rehearsal``.

``python gpu_rehearsal.py SCRIPT ARGUMENTS`` runs a script in the same way; there a replay does
nothing, since capturing has computed what it would compute, and times mean nothing.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import runpy
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from emulated.build import load
from emulated.device import emulate
from faked_cuda import Beyond, FakedCuda, Graph
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


class Event:
    """A moment; between two of them is a millisecond less at every turn, so that differences are times."""

    left = itertools.count(1_000_000, -1)

    def __init__(self, enable_timing: bool = False) -> None:
        self.record = self.synchronize = lambda: None

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds."""
        return float(next(self.left))


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
        if func in (torch.device, torch.Tensor.__deepcopy__):  # names the device; has no device, but a large memo
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
    "Event": Event,
    "get_device_name": lambda device=None: "made-up GPU",
    "max_memory_allocated": lambda device=None: 0,
    "memory_allocated": lambda device=None: 0,
    "reset_peak_memory_stats": lambda device=None: None,
    "get_rng_state": lambda device="cuda": torch.get_rng_state(),
    "set_rng_state": lambda state, device="cuda": None,
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


def host_view(address: int, count: int) -> torch.Tensor:
    """Memory of the made-up device as a tensor."""
    return torch.tensor(list((ctypes.c_uint32 * count).from_address(address)), dtype=torch.int64)


def run_rehearsed(self: threading.Thread, run: Callable[[threading.Thread], None] = threading.Thread.run) -> None:
    """A thread's work: the mode is of one thread."""
    with Mode():
        run(self)


def main(script: str, *arguments: str) -> None:
    """Run a script on the made-up GPU."""
    pytest_configure()
    PATCH.setattr(threading.Thread, "run", run_rehearsed)
    PATCH.setattr(Graph, "replay", lambda graph: None)
    sys.path[:0] = [str(Path(script).parent), str(Path(__file__).parents[1] / "bench")]
    import cuda_timing
    import gpu_cases
    import timing

    PATCH.setattr(gpu_cases, "view", host_view)
    PATCH.setattr(cuda_timing, "L2_FLUSH", 2**16)
    PATCH.setattr(timing, "_launches", lambda candidate: None)  # no profiler traces what is not there
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        pytest_unconfigure()


if __name__ == "__main__":
    main(*sys.argv[1:])
