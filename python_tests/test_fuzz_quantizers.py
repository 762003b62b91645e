"""Hostile arguments for the quantizers: refused with a clear message, or answered as eager code."""

from __future__ import annotations

from typing import Any

import torch
from fuzzing.effort import effort
from fuzzing.flaws import BITS, NO_AXIS, NO_CHOICE, NO_FLAG, NO_NUMBER, flawed, wrong_tensors
from fuzzing.judge import attempt
from fuzzing.near import equal
from fuzzing.tensors import FLOATS, shapes, tensors
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import hast_cuda as hc
from hast_cuda.ops import reference

ACTIVATIONS = [None, "relu", "relu6"]
POINTS = ["integer", "real"]


def ordered(draw: st.DrawFn, count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A range per channel, some of them of length 0."""
    ends = draw(tensors((2, count), dtype, odd=False)).sort(0).values
    return ends[0].clone(), ends[1] if draw(st.booleans()) else ends[0].clone()


@st.composite
def fake_quantize_calls(draw: st.DrawFn) -> tuple[dict[str, Any], str | None]:
    x = draw(tensors(draw(shapes(0, 5)), draw(st.sampled_from(FLOATS))))
    axis = draw(st.sampled_from([None, *range(-x.dim(), x.dim())]))
    wide = reference.arithmetic_dtype(x.dtype)
    lower, upper = ordered(draw, 1 if axis is None else x.shape[axis], wide)
    short = lower.new_zeros(lower.numel() + 1)
    good = {
        "x": x.requires_grad_(draw(st.booleans())), "lower": lower, "upper": upper,
        "bits": draw(st.integers(2, 8)), "channel_axis": axis,
        "zero_point": draw(st.sampled_from(POINTS)),
        "ste": draw(st.sampled_from(["identity", "clipped"])),
        "activation": draw(st.sampled_from(ACTIVATIONS)),
    }  # fmt: skip
    bad_range = [*NO_NUMBER[:6], short, short.bool(), short.to("meta"), None]
    bad_range += [lower + float("nan")] if lower.numel() else []
    return draw(flawed(good, {
        "x": wrong_tensors(x), "lower": bad_range, "upper": bad_range, "bits": BITS,
        "channel_axis": NO_AXIS, "zero_point": NO_CHOICE, "ste": NO_CHOICE,
        "activation": NO_CHOICE,
    }))  # fmt: skip


@effort(30)
@given(given_call=fake_quantize_calls())
def test_fake_quantize(device: torch.device, given_call: tuple[dict[str, Any], str | None]) -> None:
    call, flaw = given_call
    answered, y = attempt(lambda: hc.fake_quantize(**call), call)
    assert answered == (flaw is None), (flaw, call)
    if not answered:
        return
    x, settings = call["x"], {
        "real_zero_point": call["zero_point"] == "real", "activation": call["activation"],
    }  # fmt: skip
    where = call["lower"], call["upper"], call["bits"], call["channel_axis"]
    equal(y.detach(), reference.fake_quantize(x.detach(), *where, **settings))
    if x.requires_grad:
        y.sum().backward()
        expected = reference.fake_quantize_backward(
            torch.ones_like(x), x.detach(), *where, **settings, clipped=call["ste"] == "clipped"
        )
        equal(x.grad, expected)


def grids(draw: st.DrawFn, weights: list[Tensor]) -> list[Tensor | None]:
    """A range for some of the weights."""
    return [
        torch.stack(ordered(draw, w.shape[0], reference.arithmetic_dtype(w.dtype)))
        if draw(st.booleans()) else None
        for w in weights
    ]  # fmt: skip


@st.composite
def weights_calls(draw: st.DrawFn) -> tuple[dict[str, Any], str | None]:
    weights = [
        draw(tensors(draw(shapes(1, 5)), draw(st.sampled_from(FLOATS))))
        for _ in range(draw(st.integers(0, 4)))
    ]
    bits: Any = draw(st.integers(2, 8))
    if draw(st.booleans()):
        bits = [draw(st.integers(2, 8)) for _ in weights]
    good = {"weights": weights, "bits": bits, "zero_point": draw(st.sampled_from(POINTS))}
    good["ranges"] = draw(st.sampled_from([None, grids(draw, weights)]))
    wrong: dict[str, list[Any]] = {
        "weights": [None, 3, "weights", torch.zeros(()), [torch.zeros(())]],
        "zero_point": NO_CHOICE,
    }
    if weights:
        wrong["weights"] += [[*weights[1:], bad] for bad in wrong_tensors(weights[0])]
        ends = torch.zeros(2, weights[0].shape[0])
        bad = [ends[0], ends[:1], ends.bool(), ends.to("meta"), *NO_NUMBER[:3]]
        wrong["ranges"] = [3, ends, "x", [None] * 9, *([b, *weights[1:]] for b in bad)]
        wrong["bits"] = [*BITS[:-2], None, [4] * 9, ["4"] * len(weights), [9] * len(weights)]
    return draw(flawed(good, wrong))


@effort(30)
@given(given_call=weights_calls())
def test_fake_quantize_weights(
    device: torch.device, given_call: tuple[dict[str, Any], str | None]
) -> None:
    call, flaw = given_call
    answered, found = attempt(lambda: hc.fake_quantize_weights(**call), call)
    assert answered == (flaw is None), (flaw, call)
    if not answered:
        return
    weights, bits = call["weights"], call["bits"]
    widths = [bits] * len(weights) if isinstance(bits, int) else bits
    real = call["zero_point"] == "real"
    expected = reference.fake_quantize_weights(
        weights, widths, real_zero_point=real, ranges=call["ranges"]
    )
    for y, e in zip(found, expected, strict=True):
        equal(y, e)


@st.composite
def activation_calls(draw: st.DrawFn) -> tuple[dict[str, Any], str | None]:
    x = draw(tensors(draw(shapes(0, 5)), draw(st.sampled_from(FLOATS))))
    state = hc.new_range_state(reference.arithmetic_dtype(x.dtype))
    lower, upper = ordered(draw, 1, state.dtype)
    state[0:4] = torch.cat([lower, upper] * 2)
    other = torch.float32 if state.dtype == torch.float64 else torch.float64
    good = {
        "x": x, "state": state, "bits": draw(st.integers(2, 8)),
        "activation": draw(st.sampled_from(ACTIVATIONS)), "observe": draw(st.booleans()),
        "ema": draw(st.sampled_from(["corrected", "released"])),
        "beta": draw(st.sampled_from([0.0, 0.5, 0.9, 0.999999])),
        "ste": draw(st.sampled_from(["identity", "clipped"])),
        "zero_point": draw(st.sampled_from(POINTS)),
    }  # fmt: skip
    bad_state = [None, 3, [0.0] * 5, state[:4], state.to(other), state.to("meta"),
                 state.repeat_interleave(2)[::2], state[None]]  # fmt: skip
    return draw(flawed(good, {
        "x": wrong_tensors(x), "state": bad_state, "bits": BITS, "activation": NO_CHOICE,
        "observe": NO_FLAG, "ema": NO_CHOICE, "beta": [*NO_NUMBER, 1.0, -0.1, float("inf"), None],
        "ste": NO_CHOICE, "zero_point": NO_CHOICE,
    }))  # fmt: skip


@effort(30)
@given(given_call=activation_calls())
def test_quantize_activation(
    device: torch.device, given_call: tuple[dict[str, Any], str | None]
) -> None:
    call, flaw = given_call
    before = call["state"].clone() if isinstance(call["state"], Tensor) else None
    answered, y = attempt(lambda: hc.quantize_activation(**call), call)
    assert answered == (flaw is None), (flaw, call)
    if not answered:
        if before is not None and not before.is_meta:
            equal(call["state"], before)  # a refused call leaves the range alone
        return
    assert before is not None
    if call["observe"]:
        reference.update_range(
            call["x"], before, activation=call["activation"], beta=call["beta"],
            released=call["ema"] == "released",
        )  # fmt: skip
    equal(call["state"], before)
    expected = reference.fake_quantize(
        call["x"], before[0:1], before[1:2], call["bits"],
        real_zero_point=call["zero_point"] == "real", activation=call["activation"],
    )  # fmt: skip
    equal(y, expected)


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
