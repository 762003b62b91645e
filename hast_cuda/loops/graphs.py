"""One iteration as one launch: its kernels are captured in a CUDA graph and replayed."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hast_cuda.loops.warn import warn_caller

WARM_UP = 3  # calls that run as they are: lazy initialisation must not be captured


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
        outside = torch.cuda.current_stream()
        self.stream.wait_stream(outside)
        with torch.cuda.stream(self.stream):
            self.function()
        outside.wait_stream(self.stream)

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                self.function()
        except RuntimeError as error:
            if self.mode == "on":
                raise
            message = "the iteration cannot be captured in a CUDA graph and runs without one"
            warn_caller(f"{message}: {error}", UserWarning)
            self.enabled = False
            return
        self.graph = graph
