"""Counters of streams and captures, and the current device of an op, on devices that are made up."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from faked_cuda import FakedCuda, two_devices

from hast_cuda.ops import _registry, _workspace
from hast_cuda.ops._registry import on_its_device

__all__ = ["two_devices"]  # a fixture
X = torch.empty(1)


class Core:
    """CUDA's part: memory that is never given out twice, and a capture that can be under way."""

    def __init__(self) -> None:
        self.stream, self.capture = 7, 0
        self.made: list[int] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def capture_number(self, *, device: int, stream: int) -> int:
        return self.capture

    def new_counters(self, *, count: int, device: int) -> int:
        self.meanwhile()  # CUDA waits without the GIL
        self.made.append(count)
        return 1000 * len(self.made)


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Core:
    """CPU tensors pass for those of a GPU; torch may not allocate for the counters."""
    made = Core()

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("counters in memory of torch's belong to the pool of a graph, or to whom it gives them next")

    monkeypatch.setattr(_workspace, "core", made)
    monkeypatch.setattr(_workspace, "_places", {})
    monkeypatch.setattr(_workspace, "device_and_stream", lambda _: (0, made.stream))
    for name in ("zeros", "empty", "full"):
        monkeypatch.setattr(torch, name, refuse)
    return made


def test_a_stream_keeps_its_counters(core: Core) -> None:
    first = _workspace.counters(X, 10)
    assert _workspace.counters(X, _workspace.FEWEST) == first
    larger = _workspace.counters(X, _workspace.FEWEST + 1)
    assert larger != first  # the old ones stay where they are: a graph may have their address
    assert _workspace.counters(X, 10) == larger
    assert core.made == [_workspace.FEWEST, 2 * _workspace.FEWEST]


def test_every_capture_has_counters_of_its_own(core: Core) -> None:
    found = []
    for core.capture in (0, 1, 2, 0, 3):
        found += [_workspace.counters(X, 10), _workspace.counters(X, 20)]
    assert found[::2] == found[1::2]
    plain, *captured = found[:6:2]
    assert found[6] == plain
    assert len({plain, *captured, found[8]}) == 4


def test_threads_on_different_streams_never_share(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2)
    core.meanwhile = both.wait  # each is made while the other is
    monkeypatch.setattr(_workspace, "device_and_stream", lambda x: (0, x))
    with ThreadPoolExecutor(2) as pool:
        addresses = list(pool.map(lambda stream: _workspace.counters(stream, 5), (1, 2), timeout=30))
    assert len(set(addresses)) == 2


def test_forty_streams_have_forty_places(core: Core) -> None:
    addresses = set()
    for core.stream in range(40):
        addresses.add(_workspace.counters(X, 5))
    assert len(addresses) == 40


def on_device(index: int) -> Any:
    """A tensor's device, and nothing else of it."""
    return SimpleNamespace(device=torch.device("cuda", index))


@pytest.mark.parametrize("index", [0, 1])
def test_an_op_runs_with_the_device_of_its_tensors_current(
    two_devices: FakedCuda, monkeypatch: pytest.MonkeyPatch, index: int
) -> None:
    monkeypatch.setattr(_registry, "Tensor", SimpleNamespace)
    run = on_its_device(lambda *arguments: (two_devices.current, len(arguments)))
    assert run(on_device(index), 4) == (index, 2)
    assert run([4, 5], [on_device(index)], "relu") == (index, 3)
    assert run(None, on_device(index)) == (index, 2)
    assert two_devices.current == 0


def test_new_counters_are_zero(emulated_module: ModuleType) -> None:
    addresses = [emulated_module.new_counters(count=100, device=0) for _ in range(2)]
    assert addresses[0] != addresses[1]
    assert not any((ctypes.c_uint32 * 100).from_address(addresses[0]))
    assert emulated_module.capture_number(device=0, stream=0) == 0


def test_an_error_of_one_call_is_not_that_of_the_next(emulated_module: ModuleType) -> None:
    with pytest.raises(RuntimeError, match=r"new_counters: invalid device ordinal"):
        emulated_module.new_counters(count=1, device=5)
    state, loss = torch.zeros(3, dtype=torch.float64), torch.ones(())
    rate = torch.ones(1)
    emulated_module.plateau_step(
        state=state.data_ptr(),
        rate=rate.data_ptr(),
        loss=loss.data_ptr(),
        dtype=0,
        patience=1.0,
        factor=0.5,
        threshold=0.0,
        minimum=0.0,
        device=0,
        stream=0,
    )


def test_the_core_without_cuda_refuses() -> None:
    with pytest.raises(ValueError, match="new_counters: device must be a CUDA index, got -1"):
        _registry.core.new_counters(count=1, device=-1)  # type: ignore[arg-type]
    if _registry.core.build_info()["cuda"] == "not built":
        with pytest.raises(RuntimeError, match="capture_number: built without CUDA"):
            _registry.core.capture_number(device=0, stream=0)  # type: ignore[arg-type]
