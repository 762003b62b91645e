"""Counters of the streams, on a device that is made up."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from hast_cuda.ops import _workspace

X = torch.empty(1)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Tensor]]:
    """Every allocation of counters, while CPU tensors pass for those of a GPU on stream 7."""
    found: list[weakref.ref[Tensor]] = []
    zeros = torch.zeros

    def recorded(*size: int, **settings: Any) -> Tensor:
        result = zeros(*size, **settings)
        found.append(weakref.ref(result))
        return result

    monkeypatch.setattr(torch, "zeros", recorded)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(_workspace, "device_and_stream", lambda _: (0, 7))
    monkeypatch.setattr(_workspace, "_slots", {})
    monkeypatch.setattr(_workspace, "_banks", {})
    return found


def test_a_captured_kernel_keeps_its_counters_when_a_larger_slot_is_needed(made: list[weakref.ref[Tensor]]) -> None:
    sizes = [10, _workspace.SLOT + 1, 2 * _workspace.SLOT]
    addresses = [_workspace.counters(X, size) for size in sizes]
    assert len(set(addresses)) == 3
    assert [kept() is not None for kept in made] == [True] * 3
    assert _workspace.counters(X, 10) == addresses[-1]
    assert len(made) == 3
