"""Replayed on made-up devices: whose streams wait for whose, and what a failed capture leaves behind."""

from __future__ import annotations

import warnings

import pytest
import torch
from faked_cuda import Beyond, FakedCuda, two_devices

from hast_cuda.loops.graphs import WARM_UP, Replayed

__all__ = ["two_devices"]  # a fixture


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_streams_wait_for_those_of_the_same_device(two_devices: FakedCuda, device: str) -> None:
    seen = []
    replayed = Replayed(lambda: seen.append((two_devices.current, two_devices.stream_of())), torch.device(device), "on")
    outside, own = two_devices.stream_of(device), replayed.stream
    for _ in range(WARM_UP):
        replayed()
    assert two_devices.waits == [(own, outside), (outside, own)] * WARM_UP
    with pytest.raises(Beyond):
        replayed()
    assert seen == [(torch.device(device).index, own)] * (WARM_UP + 1)
    assert two_devices.synchronized == [torch.device(device).index]  # before the capture
    assert two_devices.current == 0
    assert [repr(s) for s in two_devices.streams] == ["cuda:0/0", "cuda:1/0"]


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_a_failed_capture_leaves_streams_and_device_as_they_were(two_devices: FakedCuda, mode: str) -> None:
    where = []

    def function() -> None:
        where.append(two_devices.stream_of())
        two_devices.read()

    replayed = Replayed(function, torch.device("cuda:1"), mode)
    user = two_devices.new_stream("cuda:1")
    two_devices.streams[1] = user
    for _ in range(WARM_UP):
        replayed()
    if mode == "on":
        with pytest.raises(RuntimeError, match="previous error during capture"):
            replayed()
    else:
        with pytest.warns(UserWarning, match="cannot be captured .* until this process is started again"):
            replayed()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            replayed()
        assert len(where) == WARM_UP + 3
        assert replayed.graph is None
    assert two_devices.current == 0
    assert two_devices.streams[1] is user


def test_a_function_that_fails_leaves_streams_and_device_as_they_were(two_devices: FakedCuda) -> None:
    replayed = Replayed(lambda: 1 // 0, torch.device("cuda:1"), "on")  # type: ignore[arg-type,return-value]
    with pytest.raises(ZeroDivisionError):
        replayed()
    assert two_devices.current == 0
    assert [repr(s) for s in two_devices.streams] == ["cuda:0/0", "cuda:1/0"]
