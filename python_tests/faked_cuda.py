"""CUDA devices that are made up: which is current, their streams, and what waits for what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch


class Stream:
    """A stream of a made-up device; the default one has the number 0."""

    def __init__(self, faked: FakedCuda, device: int, number: int) -> None:
        self.faked, self.number = faked, number
        self.device = torch.device("cuda", device)
        self.cuda_stream = number

    def __repr__(self) -> str:
        return f"cuda:{self.device.index}/{self.number}"

    def wait_stream(self, other: Stream) -> None:
        """What comes after on this stream waits for what is on the other."""
        self.faked.waits.append((self, other))

    def synchronize(self) -> None:
        """There is nothing to wait for."""


class Beyond(Exception):
    """Something was asked for that only a GPU can do."""


class Graph:
    """A CUDA graph that holds nothing."""

    def replay(self) -> None:
        """Would run what was captured."""
        raise Beyond("nothing was captured")


class FakedCuda:
    """What torch.cuda says of ``devices`` devices, none of which is there."""

    def __init__(self, devices: int) -> None:
        self.current, self.made = 0, 0
        self.streams = [Stream(self, i, 0) for i in range(devices)]  # the current one of each
        self.waits: list[tuple[Stream, Stream]] = []
        self.synchronized: list[int] = []
        self.capturing = False
        self.capture_failed = False

    def index(self, device: Any) -> int:
        """Of a device in any of the ways that torch takes one."""
        if isinstance(device, int):
            return device
        given = None if device is None else torch.device(device).index
        return self.current if given is None else given

    def stream_of(self, device: Any = None) -> Stream:
        """The current stream of a device."""
        return self.streams[self.index(device)]

    def set_stream(self, stream: Stream) -> None:
        """Make it, and its device, current."""
        self.current = self.index(stream.device)
        self.streams[self.current] = stream

    def new_stream(self, device: Any = None) -> Stream:
        """One that nobody else has."""
        self.made += 1
        return Stream(self, self.index(device), self.made)

    @contextmanager
    def device(self, device: Any) -> Iterator[None]:
        """As torch.cuda.device."""
        before, self.current = self.current, self.index(device)
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        """As torch.cuda.stream."""
        device, before = self.current, self.stream_of(stream.device)
        self.set_stream(stream)
        try:
            yield
        finally:
            self.set_stream(before)
            self.current = device

    @contextmanager
    def graph(self, graph: Graph, stream: Stream | None = None) -> Iterator[None]:
        """As torch.cuda.graph, whose stream stays current if the capture cannot be ended."""
        self.synchronize()
        inside = stream or self.new_stream()
        device, before = self.current, self.stream_of(inside.device)
        self.set_stream(inside)
        self.capturing = True
        try:
            yield
        finally:
            self.capturing = False
            if self.capture_failed:
                self.capture_failed = False
                raise RuntimeError("operation failed due to a previous error during capture")
            self.set_stream(before)
            self.current = device

    def read(self) -> None:
        """Called where a value is read: a capture that is under way fails."""
        if self.capturing:
            self.capture_failed = True
            raise RuntimeError("operation not permitted when stream is capturing")

    def synchronize(self, device: Any = None) -> None:
        """There is nothing to wait for."""
        self.synchronized.append(self.index(device))

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Take the place of torch.cuda, until ``patch`` is undone."""
        names = {
            "Stream": self.new_stream,
            "CUDAGraph": Graph,
            "current_device": lambda: self.current,
            "current_stream": self.stream_of,
            "device": self.device,
            "device_count": lambda: len(self.streams),
            "graph": self.graph,
            "is_available": lambda: True,
            "is_current_stream_capturing": lambda: self.capturing,
            "set_stream": self.set_stream,
            "stream": self.stream,
            "synchronize": self.synchronize,
        }
        for name, value in names.items():
            patch.setattr(torch.cuda, name, value)


@pytest.fixture
def two_devices(monkeypatch: pytest.MonkeyPatch) -> FakedCuda:
    """A machine with two GPUs, whose first is the current one."""
    faked = FakedCuda(2)
    faked.install(monkeypatch)
    return faked
