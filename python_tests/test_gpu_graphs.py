"""CUDA graphs: every op is captured forward and backward and replayed on other inputs."""

from __future__ import annotations

import pytest
import torch
from gpu_cases import CUDA, NEEDS_CUDA, OP_CASES, Inputs, OpCase, assert_equal, copies, each, fill
from torch import Tensor

from hast_cuda.ops import _workspace

pytestmark = NEEDS_CUDA


def capture(case: OpCase, inputs: Inputs) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
    """A graph of one call, after warm-up on a side stream as torch asks for."""
    stream = torch.cuda.Stream(CUDA)
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            case.run(copies(inputs))
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        outputs = case.run(inputs)
    return graph, outputs


@each(OP_CASES)
def test_replay_equals_a_plain_call(case: OpCase) -> None:
    static = case.make(CUDA)
    graph, outputs = capture(case, static)
    for _ in range(3):
        fresh = case.make(CUDA)
        fill(static, fresh)
        graph.replay()
        torch.cuda.synchronize()
        assert_equal(outputs, case.run(fresh))
        assert_equal(static, fresh)  # what the op updates in place (a range state) went the same way


@each(OP_CASES)
def test_replays_in_a_row_give_equal_bits(case: OpCase) -> None:
    static = case.make(CUDA)
    original = copies(static)
    graph, outputs = capture(case, static)
    results = []
    for _ in range(5):
        fill(static, original)  # counters must be back at zero each time
        graph.replay()
        results.append([o.clone() for o in outputs])
    torch.cuda.synchronize()
    for result in results[1:]:
        assert_equal(result, results[0])


def test_a_capture_may_be_the_first_to_need_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(c for c in OP_CASES if c.name == "losses")
    inputs = case.make(CUDA)
    expected = case.run(copies(inputs))  # loads the kernels
    monkeypatch.setattr(_workspace, "_places", {})
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = case.run(inputs)
    graph.replay()
    torch.cuda.synchronize()
    assert_equal(outputs, expected)


def test_graphs_captured_on_one_stream_replay_on_two_at_once() -> None:
    case = next(c for c in OP_CASES if c.name == "batch_norm_activation")
    captured = [(inputs, *capture(case, inputs)) for inputs in (case.make(CUDA), case.make(CUDA))]
    expected = [case.run(copies(inputs)) for inputs, _, _ in captured]
    streams = [torch.cuda.Stream(CUDA) for _ in captured]
    torch.cuda.synchronize()
    for _ in range(100):
        for stream, (_, graph, _) in zip(streams, captured, strict=True):
            with torch.cuda.stream(stream):
                graph.replay()
    torch.cuda.synchronize()
    for (_, _, outputs), values in zip(captured, expected, strict=True):
        assert_equal(outputs, values)
