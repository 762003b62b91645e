"""One iteration as one launch: its kernels are captured in a CUDA graph and replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from hast_cuda.loops.warn import warn_caller

WARM_UP = 3  # calls that run as they are: lazy initialisation must not be captured

# Graphs whose capture failed. PyTorch's allocator may go on asking them for good.
_failed: list[torch.cuda.CUDAGraph] = []


@contextmanager
def _left_as_found(stream: torch.cuda.Stream) -> Iterator[torch.cuda.Stream]:
    """Make the device of ``stream`` current and give its current stream; both come back at the end.

    A capture that fails leaves its own stream behind: torch.cuda.graph raises before it puts the
    other back.
    """
    with torch.cuda.device(stream.device):
        outside = torch.cuda.current_stream(stream.device)
        try:
            yield outside
        finally:
            torch.cuda.set_stream(outside)


class Replayed:
    """A function of tensors that stay in place, called often; it must not read the device.

    On CUDA the first calls run as they are, on a stream of their own; then the function is captured
    (which computes nothing) and every later call replays it. Elsewhere it is simply called. With
    the mode "auto" it goes on without a graph, with a warning, if capture fails; with "on" not.
    """

    def __init__(self, function: Callable[[], None], device: torch.device, mode: str) -> None:
        self.function, self.mode = function, mode
        self.enabled = device.type == "cuda" and mode != "off"
        self.stream = torch.cuda.Stream(device) if self.enabled else None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.calls = 0

    def __call__(self) -> None:
        """Run, or replay, the function once."""
        if not self.enabled:
            self.function()
        elif self.graph is not None:
            self.graph.replay()
        elif self.calls < WARM_UP:
            self.calls += 1
            self._on_own_stream()
        else:
            self._capture()
            self()

    def _on_own_stream(self) -> None:
        assert self.stream is not None
        with _left_as_found(self.stream) as outside:
            self.stream.wait_stream(outside)
            with torch.cuda.stream(self.stream):
                self.function()
            outside.wait_stream(self.stream)

    def _capture(self) -> None:
        assert self.stream is not None
        graph = torch.cuda.CUDAGraph()
        try:
            with _left_as_found(self.stream), torch.cuda.graph(graph, stream=self.stream):
                self.function()
        except RuntimeError as error:
            _failed.append(graph)
            if self.mode == "on":
                raise
            warn_caller(
                "the iteration cannot be captured in a CUDA graph and runs without one; memory that PyTorch has "
                f"cached may stay reserved until this process is started again: {error}",
                UserWarning,
            )
            self.enabled = False
            return
        self.graph = graph
