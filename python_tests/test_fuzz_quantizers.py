"""Hostile arguments for the quantizers: refused with a clear message, or answered as eager code."""

from __future__ import annotations

from typing import Any

import torch
from fuzzing.effort import effort
from fuzzing.hostile import NAN, tried
from fuzzing.judge import attempt
from fuzzing.near import doubled, equal, near, size_of
from fuzzing.tensors import FLOATS, shapes, tensors
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import hast_cuda as hc
from hast_cuda.ops import reference

ACTIVATIONS = st.sampled_from([None, "relu", "relu6"])
POINTS = st.sampled_from(["integer", "real"])
STE = st.sampled_from(["identity", "clipped"])
BITS = st.integers(2, 8)
DTYPES = st.sampled_from(FLOATS)


def ordered(draw: st.DrawFn, count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A range per channel, some of them of length 0."""
    ends = draw(tensors((2, count), dtype, odd=False)).sort(0).values
    return ends[0].clone(), ends[1] if draw(st.booleans()) else ends[0].clone()


@effort(15)
@given(data=st.data())
def test_fake_quantize(device: torch.device, data: st.DataObject) -> None:
    draw = data.draw
    x = draw(tensors(draw(shapes(0, 5)), draw(DTYPES)))
    axis = draw(st.sampled_from([None, *range(-x.dim(), x.dim())]))
    wide = reference.arithmetic_dtype(x.dtype)
    lower, upper = ordered(draw, 1 if axis is None else x.shape[axis], wide)
    good: dict[str, Any] = {
        "x": x.requires_grad_(draw(st.booleans())),
        "lower": lower,
        "upper": upper,
        "bits": draw(BITS),
        "channel_axis": axis,
        "zero_point": draw(POINTS),
        "ste": draw(STE),
        "activation": draw(ACTIVATIONS),
    }
    short = lower.new_zeros(lower.numel() + 1)
    ranges = [NAN, short, short.bool(), short.to("meta"), *([lower + NAN] if len(lower) else [])]
    for y in tried(data, hc.fake_quantize, good, lower=ranges, upper=ranges):
        settings = {"real_zero_point": good["zero_point"] == "real", "activation": good["activation"]}
        where = lower, upper, good["bits"], axis
        equal(y.detach(), reference.fake_quantize(x.detach(), *where, **settings))
        if x.requires_grad:
            y.sum().backward()
            clipped = good["ste"] == "clipped"
            equal(
                x.grad,
                reference.fake_quantize_backward(torch.ones_like(x), x.detach(), *where, **settings, clipped=clipped),
            )


@effort(15)
@given(data=st.data())
def test_fake_quantize_weights(device: torch.device, data: st.DataObject) -> None:
    draw = data.draw
    weights = draw(st.lists(shapes(1, 5).flatmap(lambda s: DTYPES.flatmap(lambda d: tensors(s, d))), max_size=4))
    widths = [draw(BITS) for _ in weights]
    grids = [
        torch.stack(ordered(draw, w.shape[0], reference.arithmetic_dtype(w.dtype))) if draw(st.booleans()) else None
        for w in weights
    ]
    good = {
        "weights": weights,
        "zero_point": draw(POINTS),
        "bits": widths if draw(st.booleans()) else draw(BITS),
        "ranges": draw(st.sampled_from([None, grids])),
    }
    wrong: dict[str, list[Any]] = {"weights": [[torch.zeros(())]], "bits": [], "ranges": []}
    if weights:
        ends = torch.zeros(2, weights[0].shape[0])
        bad = [ends[0], ends[:1], ends.bool(), ends.to("meta"), NAN]
        wrong["ranges"] = [ends, [None] * 9, *([b, *weights[1:]] for b in bad)]
        wrong["bits"] = [[4] * 9, ["4"] * len(weights), [9] * len(weights)]
    else:
        del good["bits"], good["ranges"]  # any will do
        good["bits"] = 4
    for found in tried(data, hc.fake_quantize_weights, good, **wrong):
        bits = good["bits"]
        expected = reference.fake_quantize_weights(
            weights,
            [bits] * len(weights) if isinstance(bits, int) else bits,
            real_zero_point=good["zero_point"] == "real",
            ranges=good.get("ranges"),
        )
        for y, e in zip(found, expected, strict=True):
            equal(y, e)


@effort(15)
@given(data=st.data())
def test_soft_round_weights(device: torch.device, data: st.DataObject) -> None:
    draw = data.draw
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    sizes = draw(st.lists(shapes(1, 4), min_size=1, max_size=3))
    good: dict[str, Any] = {
        "bases": [draw(tensors(s, dtype)) for s in sizes],
        "roundings": [draw(tensors(s, dtype)).requires_grad_() for s in sizes],
        "steps": [draw(tensors(s[:1], dtype)).requires_grad_() for s in sizes],
        "lows": [draw(tensors(s[:1], dtype, odd=False)) for s in sizes],
        "bits": draw(BITS),
        "beta": draw(st.sampled_from([None, torch.tensor(2.0, dtype=dtype), torch.tensor(7.5, dtype=dtype)])),
    }
    wrong: dict[str, list[Any]] = {"bits": [[4] * 9, ["4"] * len(sizes)], "beta": [torch.zeros(1, dtype=dtype)]}
    for name in ("bases", "roundings", "steps", "lows"):
        wrong[name] = [[torch.zeros((), dtype=dtype)] * len(sizes), good[name] * 2, [NAN] * len(sizes)]
    for found in tried(data, hc.ops.soft_round_weights, good, **wrong):
        call = {**good, "bits": [good["bits"]] * len(sizes)}
        wide = doubled(call)
        eager, exact = reference.soft_round_weights(**call), reference.soft_round_weights(**wide)
        of = [[y for y in (*weights, total) if y is not None] for weights, total in (found, eager, exact)]
        leaves = [[*given["roundings"], *given["steps"]] for given in (good, call, wide)]
        for y, e, x in zip(*of, strict=True):
            near(y.detach(), e.detach(), x.detach())
        gradients = [torch.autograd.grad([y.sum() for y in ys], xs) for ys, xs in zip(of, leaves, strict=True)]
        scale = size_of(*(v.detach() for v in (*good["bases"], *good["steps"]) if v.numel()))
        for g, e, x in zip(*gradients, strict=True):
            near(g, e, x, slack=scale * (1e-5 if dtype == torch.float32 else 1e-12))


@effort(15)
@given(data=st.data())
def test_quantize_activation(device: torch.device, data: st.DataObject) -> None:
    draw = data.draw
    x = draw(tensors(draw(shapes(0, 5)), draw(DTYPES)))
    state = hc.new_range_state(reference.arithmetic_dtype(x.dtype))
    lower, upper = ordered(draw, 1, state.dtype)
    state[0:4] = torch.cat([lower, upper] * 2)
    before = state.clone()
    good = {
        "x": x,
        "state": state,
        "bits": draw(BITS),
        "activation": draw(ACTIVATIONS),
        "observe": draw(st.booleans()),
        "ema": draw(st.sampled_from(["corrected", "released"])),
        "beta": draw(st.sampled_from([0.0, 0.5, 0.9, 0.999999])),
        "ste": draw(STE),
        "zero_point": draw(POINTS),
    }
    other = torch.float32 if state.dtype == torch.float64 else torch.float64
    bad_state = [state[:4], state.to(other), state.to("meta"), state.repeat_interleave(2)[::2], state[None]]
    for y in tried(data, hc.quantize_activation, good, state=bad_state):
        if good["observe"]:
            reference.update_range(
                x, before, activation=good["activation"], beta=good["beta"], released=good["ema"] == "released"
            )
        expected = reference.fake_quantize(
            x,
            before[0:1],
            before[1:2],
            good["bits"],
            real_zero_point=good["zero_point"] == "real",
            activation=good["activation"],
        )
        equal(y, expected)
    equal(state, before)  # a refused call leaves the range alone


@effort(20)
@given(
    dtype=st.sampled_from([*FLOATS, torch.int32, torch.bool, "float32", None, 3]),
    device_name=st.sampled_from([None, "cpu", "meta", "cuda:99", "gpu", "", 3.5, "mps", b"cpu"]),
)
def test_new_range_state(dtype: Any, device_name: Any) -> None:
    allowed = dtype in (torch.float32, torch.float64) and device_name in (None, "cpu", "meta")
    names = ["dtype", "device"]
    answered, state = attempt(lambda: hc.new_range_state(dtype, device_name), names)
    assert answered == allowed
    if answered and not state.is_meta:
        equal(state, torch.tensor([0, 0, 0, 0, 1], dtype=dtype))
