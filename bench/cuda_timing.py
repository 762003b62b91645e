"""Times on CUDA that do not hold the host's: many calls in one graph, as the loops run them.

L2 is flushed by reading: a buffer that was written leaves its lines to be written back by whoever
comes next. What reading takes is measured by a graph of its own and taken off.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Candidate = Callable[[], object]
L2_FLUSH = 256 * 2**20  # bytes, several times any L2 cache
CALLS = 20  # in one graph
BUSY = 3_000_000  # cycles, over a millisecond: the host is ahead when the device comes to a call


def read(buffer: Tensor) -> None:
    """Fill the caches with ``buffer``."""
    buffer.amax()


def elapsed(run: Candidate) -> float:
    """Seconds from the first to the last kernel that ``run`` starts."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def behind_work(run: Candidate) -> float:
    """The same, with the host ahead of a busy device."""
    torch.cuda._sleep(BUSY)
    return elapsed(run)


def graph_of(run: Candidate) -> Candidate:
    """``CALLS`` of them as one launch."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            run()
    return graph.replay


class CudaClock:
    """Times candidates on ``device``; with ``graphs`` in graphs, else one by one behind a busy device.

    What is replayed already cannot be captured again.
    """

    def __init__(self, device: torch.device, graphs: bool) -> None:
        self.buffer = torch.zeros(L2_FLUSH // 4, device=device)
        self.graphs = graphs
        self.flushes = graph_of(self.flush) if graphs else None

    def flush(self) -> None:
        """Leave nothing of a candidate in L2."""
        read(self.buffer)

    def cold(self, candidate: Candidate) -> Callable[[], float]:
        """Samples of the seconds of one call that finds nothing in L2."""

        def flushed() -> None:
            self.flush()
            candidate()

        def alone() -> float:
            self.flush()
            return behind_work(candidate)

        if self.flushes is None:
            return alone
        flushes, both = self.flushes, graph_of(flushed)
        return lambda: (elapsed(both) - elapsed(flushes)) / CALLS

    def in_a_row(self, candidate: Candidate) -> float:
        """Seconds of one of many calls; what one leaves in L2 the next may find."""
        return behind_work(graph_of(candidate)) / CALLS if self.graphs else self.eager(candidate)

    def eager(self, candidate: Candidate) -> float:
        """The same, called by the host, which may be the limit."""
        torch.cuda.synchronize()
        return elapsed(lambda: [candidate() for _ in range(CALLS)]) / CALLS
