"""The clock of CUDA benchmarks on a made-up device: neither the host's time nor the flush's is in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cuda_timing
import pytest
import torch
from cuda_timing import CudaClock
from faked_cuda import FakedCuda, Graph, Stream

LAUNCH = 50e-6  # seconds of the host per call
FLUSH, COLD, WARM = 60e-6, 5e-6, 2e-6  # seconds of the device


class TimedGraph(Graph):
    """Kernels that were captured, by their seconds."""

    def __init__(self) -> None:
        self.kernels: list[float] = []

    def replay(self) -> None:
        """Run them one after the other, whatever the host does."""
        MACHINE.launch(sum(self.kernels))


class Machine(FakedCuda):
    """One GPU with a clock, a host that takes its time, and a cache that a kernel finds full or not."""

    def __init__(self) -> None:
        super().__init__(1)
        self.host, self.device_free = 0.0, 0.0
        self.recording: list[float] | None = None
        self.flushed = False

    def launch(self, seconds: float) -> None:
        """A kernel: when the host has come to it and the device is free."""
        if self.recording is not None:
            self.recording.append(seconds)
            return
        self.host += LAUNCH
        self.device_free = max(self.host, self.device_free) + seconds

    def flush(self, _: object = None) -> None:
        """Read a large buffer."""
        self.launch(FLUSH)
        self.flushed = True

    def call(self) -> None:
        """What is timed."""
        self.launch(COLD if self.flushed else WARM)
        self.flushed = False

    @contextmanager
    def graph(self, graph: Graph, stream: Stream | None = None) -> Iterator[None]:
        """Keep the kernels instead of running them."""
        assert isinstance(graph, TimedGraph)
        self.recording = graph.kernels
        yield
        self.recording = None


class Event:
    """A moment between two kernels."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        """Now."""
        self.at = max(MACHINE.host, MACHINE.device_free)

    def synchronize(self) -> None:
        """The host waits."""
        MACHINE.host = max(MACHINE.host, self.at)

    def elapsed_time(self, other: Event) -> float:
        """Milliseconds."""
        return 1e3 * (other.at - self.at)


MACHINE = Machine()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine at rest."""
    MACHINE.__init__()  # type: ignore[misc]
    MACHINE.install(monkeypatch)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", TimedGraph)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: MACHINE.launch(cycles / 2e9))
    monkeypatch.setattr(cuda_timing, "read", MACHINE.flush)
    monkeypatch.setattr(cuda_timing, "L2_FLUSH", 64)
    return MACHINE


@pytest.mark.parametrize("graphs", [True, False])
def test_a_call_takes_what_its_kernel_takes(machine: Machine, graphs: bool) -> None:
    sample = CudaClock(torch.device("cpu"), graphs).cold(machine.call)
    for _ in range(3):
        assert sample() == pytest.approx(COLD, rel=1e-6)


def test_calls_in_a_row_find_the_cache_full_and_the_host_shows_without_a_graph(machine: Machine) -> None:
    clock = CudaClock(torch.device("cpu"), graphs=True)
    machine.flushed = False
    assert clock.in_a_row(machine.call) == pytest.approx(WARM, rel=1e-6)
    assert clock.eager(machine.call) == pytest.approx(LAUNCH, rel=0.1)


def test_the_flush_writes_nothing() -> None:
    buffer = torch.ones(4)
    version = buffer._version
    cuda_timing.read(buffer)
    assert buffer._version == version
