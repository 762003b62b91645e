"""Streams, the current device, synchronisation and allocation of every op on a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
from gpu_cases import OP_CASES, STREAM_CASES, OpCase, copies
from torch import Tensor

import hast_cuda as hc
from hast_cuda.ops import _layout, _workspace
from hast_cuda.ops._registry import DTYPES, core, device_and_stream

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda", 0)


def ids(case: OpCase) -> str:
    return case.name


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for index, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert torch.equal(a, b), f"output {index} differs"


def delay(stream: torch.cuda.Stream) -> None:
    """Keep ``stream`` busy, so that work on a wrong stream would come too early."""
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)


@pytest.mark.parametrize("case", STREAM_CASES, ids=ids)
def test_runs_on_the_current_stream(case: OpCase) -> None:
    inputs = case.make(CUDA)
    expected = case.run(copies(inputs))
    late = [torch.full_like(t, 7.0).requires_grad_(t.requires_grad) for t in inputs]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream(CUDA)
    delay(stream)
    with torch.cuda.stream(stream):
        with torch.no_grad():
            for target, source in zip(late, inputs, strict=True):
                target.copy_(source)  # only work queued behind this sees the right values
        found = case.run(late)
    stream.synchronize()
    assert_equal(found, expected)


@pytest.mark.parametrize("case", STREAM_CASES, ids=ids)
def test_two_streams_at_once(case: OpCase) -> None:
    inputs = [case.make(CUDA) for _ in range(2)]
    expected = [case.run(copies(i)) for i in inputs]
    streams = [torch.cuda.Stream(CUDA) for _ in range(2)]
    for _ in range(3):
        tensors = [copies(i) for i in inputs]
        torch.cuda.synchronize()
        for stream in streams:
            delay(stream)  # both start together
        found = []
        for stream, own in zip(streams, tensors, strict=True):
            with torch.cuda.stream(stream):
                found.append(case.run(own))
        torch.cuda.synchronize()
        for a, b in zip(found, expected, strict=True):
            assert_equal(a, b)


@pytest.mark.parametrize("case", STREAM_CASES, ids=ids)
def test_current_device_is_left_alone(case: OpCase) -> None:
    last = torch.device("cuda", torch.cuda.device_count() - 1)  # cuda:0 where there is only one
    with torch.cuda.device(0):
        inputs = case.make(last)
        expected = case.run(copies(inputs))
        found = case.run(copies(inputs))
        assert torch.cuda.current_device() == 0
    assert all(t.device == last for t in found)
    assert_equal(found, expected)


@pytest.fixture
def sync_is_an_error() -> Iterator[None]:
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls the mode a prototype
        torch.cuda.set_sync_debug_mode("error")
        yield
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("case", OP_CASES, ids=ids)
def test_ops_do_not_synchronise(case: OpCase, request: pytest.FixtureRequest) -> None:
    inputs = case.make(CUDA)
    case.run(copies(inputs))  # the counters of a stream are made, once, with a synchronisation
    request.getfixturevalue("sync_is_an_error")
    case.run(inputs)


@pytest.mark.usefixtures("sync_is_an_error")
def test_the_mode_that_forbids_synchronisation_works() -> None:
    with pytest.raises(RuntimeError, match="synchroniz"):
        torch.ones(1, device=CUDA).item()


def test_launchers_allocate_nothing() -> None:
    x = torch.randn(64, 32, 14, 14, device=CUDA)
    y, stats = torch.empty_like(x), torch.rand(6, 32, device=CUDA) + 0.5
    state = hc.new_range_state(device=CUDA)
    shape = _layout.extents(x, 1)
    sums = _workspace.scratch(x, _workspace.batch_stats_scratch(x, shape), torch.float64)
    partial = _workspace.scratch(x, _workspace.range_scratch(x), torch.float32)
    counters, where = _workspace.counters(x, 32), device_and_stream(x)
    dtype, (mean, var, weight, bias, m, v) = DTYPES[x.dtype], (t.data_ptr() for t in stats)
    px, py, ps = x.data_ptr(), y.data_ptr(), state.data_ptr()

    def launch() -> None:
        core.update_range(
            px, ps, partial.data_ptr(), counters, dtype, x.numel(), 0, 0.9, False, *where
        )
        core.fake_quantize(px, py, ps, ps + 4, dtype, 1, 1, x.numel(), 4, False, 1, *where)
        core.fake_quantize_backward(
            px, px, py, ps, ps + 4, dtype, 1, 1, x.numel(), 4, False, 1, True, *where
        )
        core.fake_quantize_weights(
            [px], [py], [0], [64], [x.numel() // 64], [4], dtype, False, *where
        )
        core.batch_norm_match(
            px, 0, py, m, v, mean, var, weight, bias, 1e-5, sums.data_ptr(), counters, dtype,
            *shape, 0, *where,
        )  # fmt: skip
        core.batch_norm_match_backward(
            px, 0, px, m, v, m, mean, var, weight, 1e-5, py, 0, bias, weight, sums.data_ptr(),
            counters, dtype, *shape, 0, *where,
        )  # fmt: skip

    launch()  # loads the kernels
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats(CUDA)["allocation.all.allocated"]
    for _ in range(50):
        launch()
    torch.cuda.synchronize()
    assert torch.cuda.memory_stats(CUDA)["allocation.all.allocated"] == before
    # What a launcher took from CUDA itself would fail the captures of test_gpu_graphs.py.
