"""Hostile arguments for the BatchNorm ops and the attention vectors."""

from __future__ import annotations

from typing import Any

import torch
from fuzzing.effort import effort
from fuzzing.flaws import BITS, NO_CHOICE, NO_FLAG, NO_NUMBER, flawed, wrong_tensors
from fuzzing.judge import attempt
from fuzzing.near import equal, near
from fuzzing.tensors import FLOATS, shapes, tensors
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import hast_cuda as hc
from hast_cuda import ops
from hast_cuda.ops import reference

Call = tuple[dict[str, Any], str | None]
BAD_EPS = [*NO_NUMBER, -1e-5, float("inf"), None, 10**400]


def vector(draw: st.DrawFn, channels: int, dtype: torch.dtype) -> Tensor:
    return draw(tensors((channels,), dtype, odd=False))


@st.composite
def norm_arguments(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """What both ops take, and what is wrong in its place."""
    shape = draw(shapes(2, 5, empty=False, largest=5))
    x = draw(tensors(shape, draw(st.sampled_from(FLOATS))))
    wide = reference.arithmetic_dtype(x.dtype)
    affine = [vector(draw, shape[1], wide) if draw(st.booleans()) else None for _ in range(2)]
    residual = draw(tensors(shape, x.dtype)) if draw(st.booleans()) else None
    good = {
        "x": x, "running_mean": vector(draw, shape[1], wide),
        "running_var": vector(draw, shape[1], wide).square() + 0.1,
        "weight": affine[0], "bias": affine[1], "eps": draw(st.sampled_from([1e-5, 0.8, 1e-12])),
        "activation": draw(st.sampled_from([None, "relu", "relu6"])), "residual": residual,
        "twice": draw(st.booleans()),
    }  # fmt: skip
    some = torch.zeros(shape[1], dtype=wide)
    bad_vectors = [3, [0.0], torch.zeros(shape[1] + 1), torch.zeros(()), some[None],
                   some.to(torch.int64), some.to(torch.complex64), some.to("meta"),
                   some.expand(2**40, shape[1])]  # fmt: skip
    wrong = {
        "x": [*wrong_tensors(x), x[0, 0, ...].flatten()[:1], x[:0], x[:, :0], None],
        "running_mean": [*bad_vectors, None], "running_var": [*bad_vectors, None],
        "weight": bad_vectors, "bias": bad_vectors, "eps": BAD_EPS, "activation": NO_CHOICE,
        "residual": [3, "x", x[:0], x.double().half().to(torch.complex64), x[None], x.to("meta")],
        "twice": NO_FLAG,
    }  # fmt: skip
    return good, wrong


@st.composite
def match_calls(draw: st.DrawFn) -> Call:
    return draw(flawed(*draw(norm_arguments())))


@effort(30)
@given(given_call=match_calls())
def test_batch_norm_match(device: torch.device, given_call: Call) -> None:
    call, flaw = given_call
    answered, found = attempt(lambda: hc.batch_norm_match(**call), call)
    assert answered == (flaw is None), (flaw, call)
    if not answered:
        return
    twice = call.pop("twice")
    assert len(found) == 3 + twice
    if twice:
        equal(found[3], found[0])
    eager = reference.batch_norm_match(**call)
    exact = reference.batch_norm_match(**doubled(call))
    size = largest(call)
    for name, f, e, x in zip(("y", "mean", "var"), found, eager, exact, strict=False):
        near(f, e, x, name, slack=1e-6 * (size**2 + 10) if name == "var" else 1e-5 * size)


def largest(call: dict[str, Any]) -> float:
    """What rounding errors are in proportion to where large numbers cancel."""
    return size_of(call["x"], call["residual"])


def size_of(*values: Tensor | None) -> float:
    there = [v for v in values if v is not None]
    return 1 + sum(float(v.double().nan_to_num(0, 0, 0).abs().max()) for v in there)


def doubled(call: dict[str, Any]) -> dict[str, Any]:
    """The same arguments in float64."""
    return {k: v.double() if isinstance(v, Tensor) else v for k, v in call.items()}


@st.composite
def activation_calls(draw: st.DrawFn) -> Call:
    good, wrong = draw(norm_arguments())
    wide = reference.arithmetic_dtype(good["x"].dtype)
    state = hc.new_range_state(wide)
    state[0], state[1] = -1.0, 2.0
    frozen = state if draw(st.booleans()) else None
    x, energy = good["x"], draw(st.booleans())
    target = draw(tensors(tuple(x.shape), x.dtype)) if energy and draw(st.booleans()) else None
    good |= {
        "state": frozen, "bits": draw(st.integers(2, 8)), "energy": energy, "target": target,
        "ste": draw(st.sampled_from(["identity", "clipped"])), "normalized": draw(st.booleans()),
    }  # fmt: skip
    wrong |= {"state": [3, state[:2], state[None], state.half(), state.to("meta")],
              "energy": NO_FLAG, "ste": NO_CHOICE, "bits": BITS, "normalized": NO_FLAG,
              "target": wrong["residual"]}  # fmt: skip
    return draw(flawed(good, wrong))


@effort(30)
@given(given_call=activation_calls())
def test_batch_norm_activation(device: torch.device, given_call: Call) -> None:
    call, flaw = given_call
    answered, found = attempt(lambda: hc.batch_norm_activation(**call), call)
    assert answered == (flaw is None), (flaw, call)
    if not answered:
        return
    y, energy, *more = found
    normalized = call.pop("normalized")
    assert len(more) == call.pop("twice") + normalized
    assert (energy is not None) == call.pop("energy")
    del call["ste"]
    state = call.pop("state")
    eager = reference.batch_norm_activation(**call)
    exact = reference.batch_norm_activation(**doubled(call))
    if energy is not None:
        # of a difference of numbers this large
        size = 0.0 if call["target"] is None else size_of(exact[2], call["target"])
        positions = call["x"][0, 0].numel()
        near(energy, eager[1], exact[1], "energy", slack=1e-6 * positions * size**2)
    if normalized:
        near(more[0], eager[2], exact[2], "u", slack=1e-5 * largest(call))
    if state is None:
        near(y, eager[0], exact[0], "y", slack=1e-5 * largest(call))
        return
    # Rounding may take the neighbour of a value in the middle: one step of the grid.
    bounds, step = state[:2], 3.0 / (2 ** call["bits"] - 1)
    expected = reference.batch_norm_activation(**call, bounds=bounds)[0]
    finite = expected.isfinite()
    assert torch.equal(y.isnan(), expected.isnan())
    gap = (y.double() - expected.double())[finite].abs()
    assert not gap.numel() or float(gap.max()) <= step * 1.01 + 8 * torch.finfo(y.dtype).eps


@st.composite
def maps(draw: st.DrawFn, least: int) -> list[Tensor]:
    count = draw(st.integers(least, 3))
    return [
        draw(tensors(draw(shapes(3, 5, empty=False, largest=5)), draw(st.sampled_from(FLOATS))))
        for _ in range(count)
    ]


@effort(30)
@given(data=st.data())
def test_channel_attention(device: torch.device, data: st.DataObject) -> None:
    (feature,) = data.draw(maps(1).map(lambda found: found[:1]))
    bad = [*wrong_tensors(feature), feature[0].flatten(1), feature[:0], feature[..., :0], None]
    call, flaw = data.draw(flawed({"feature": feature}, {"feature": bad}))
    answered, energy = attempt(lambda: hc.channel_attention(**call), call)
    assert answered == (flaw is None), (flaw, call)
    if answered:
        near(energy, reference.channel_attention(feature),
             reference.channel_attention(feature.double()))  # fmt: skip


@effort(30)
@given(data=st.data())
def test_channel_attentions(device: torch.device, data: st.DataObject) -> None:
    features = data.draw(maps(0))
    bad: list[Any] = [None, 3, "maps", torch.zeros(2, 3, 4), iter(features)]
    bad += [[*features, wrong] for wrong in wrong_tensors(torch.zeros(2, 3, 4))]
    bad.append([*features, torch.zeros(2, 3)])
    if features:
        bad.append([torch.zeros(2, 3, 4, device="meta"), *features])
    call, flaw = data.draw(flawed({"features": features}, {"features": bad}))
    answered, found = attempt(lambda: ops.channel_attentions(**call), call)
    assert answered == (flaw is None), (flaw, call)
    if answered:
        for energy, feature in zip(found, features, strict=True):
            near(energy, reference.channel_attention(feature),
                 reference.channel_attention(feature.double()))  # fmt: skip
