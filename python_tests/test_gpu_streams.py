"""Streams, the current device, synchronisation and allocation of every op on a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from gpu_cases import CUDA, NEEDS_CUDA, OP_CASES, STREAM_CASES, OpCase, assert_equal, copies, each, fill

import hast_cuda as hc
from hast_cuda.ops import _layout, _workspace
from hast_cuda.ops._registry import core, launch, pointer
from hast_cuda.ops.activations import CODES
from hast_cuda.ops.codes import Gate, Pointer

pytestmark = NEEDS_CUDA


def delay(stream: torch.cuda.Stream) -> None:
    """Keep ``stream`` busy, so that work on a wrong stream would come too early."""
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)


@each(STREAM_CASES)
def test_runs_on_the_current_stream(case: OpCase) -> None:
    inputs = case.make(CUDA)
    expected = case.run(copies(inputs))
    late = [torch.full_like(t, 7.0).requires_grad_(t.requires_grad) for t in inputs]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream(CUDA)
    delay(stream)
    with torch.cuda.stream(stream):
        fill(late, inputs)  # only work queued behind this sees the right values
        found = case.run(late)
    stream.synchronize()
    assert_equal(found, expected)


@each(STREAM_CASES)
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


@each(STREAM_CASES)
def test_current_device_is_left_alone(case: OpCase) -> None:
    last = torch.device("cuda", torch.cuda.device_count() - 1)  # cuda:0 where there is only one
    with torch.cuda.device(0):
        inputs = case.make(last)
        expected = case.run(copies(inputs))
        found = case.run(copies(inputs))
        assert torch.cuda.current_device() == 0
    assert {t.device for t in found} == {inputs[0].device}
    assert_equal(found, expected)


@pytest.fixture
def sync_is_an_error() -> Iterator[None]:
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls the mode a prototype
        torch.cuda.set_sync_debug_mode("error")
        yield
        torch.cuda.set_sync_debug_mode("default")


@each(OP_CASES)
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
    shape, place = _layout.extents(x, 1), launch(x)
    whole = _layout.extents(x, None)
    count = core.batch_norm_match_scratch(**shape, device=place["device"])
    sums = _workspace.scratch(x, count, torch.float64)
    count = core.update_range_scratch(size=x.numel(), device=place["device"])
    partial = _workspace.scratch(x, count, torch.float32)
    counters, px, py, ps = _workspace.counters(x, 32), pointer(x), pointer(y), pointer(state)
    mean, var, weight, bias, m, v = map(pointer, stats)
    none, relu, absent = CODES[None], CODES["relu"], Pointer(0)
    ends: Any = {"lower": ps, "upper": pointer(state[1:]), "bits": 4, "real_zero_point": False}
    norm: Any = {
        "x": px,
        "residual": absent,
        "mean": m,
        "running_mean": mean,
        "running_var": var,
        "weight": weight,
        "bias": bias,
        "eps": 1e-5,
        "scratch": pointer(sums),
        "counters": counters,
        "activation": none,
        **shape,
        **place,
    }
    unused: Any = dict.fromkeys(("y", "target", "dmap", "denergy", "dy2", "range", "dresidual", "dtarget"), absent)

    def launch_all() -> None:
        core.update_range(
            x=px,
            state=ps,
            scratch=pointer(partial),
            counters=counters,
            size=x.numel(),
            activation=none,
            beta=0.9,
            released=False,
            **place,
        )
        core.fake_quantize(x=px, y=py, activation=relu, **ends, **whole, **place)
        core.fake_quantize_backward(x=px, dy=px, dx=py, activation=relu, clipped=True, **ends, **whole, **place)
        core.fake_quantize_weights(
            weights=[px],
            outputs=[py],
            ranges=[absent],
            rows=[64],
            columns=[x.numel() // 64],
            bits=[4],
            real_zero_point=False,
            **place,
        )
        core.batch_norm_match(y=py, var=v, **norm)
        core.batch_norm_backward(
            dy=px,
            dmean=m,
            dvar=v,
            dx=py,
            dweight=bias,
            dbias=weight,
            bits=4,
            images=len(x),
            gate=Gate(0),
            **unused,
            **norm,
        )

    launch_all()  # loads the kernels
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats(CUDA)["allocation.all.allocated"]
    for _ in range(5):
        launch_all()
    torch.cuda.synchronize()
    assert torch.cuda.memory_stats(CUDA)["allocation.all.allocated"] == before
    # What a launcher took from CUDA itself would fail the captures of test_gpu_graphs.py.
