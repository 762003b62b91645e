"""Hostile arguments for the losses and the plateau rule."""

from __future__ import annotations

from typing import Any

import torch
from fuzzing.effort import effort
from fuzzing.flaws import NO_CHOICE, NO_FLAG, NO_NUMBER, flawed, wrong_tensors
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
WIDE = [torch.float32, torch.float64]
NO_LIST: list[Any] = [None, 3, "x", torch.zeros(1, 2, 3, 4), [], [None], [3], ["x"]]


def double(values: list[Tensor]) -> list[Tensor]:
    return [v.double() for v in values]


def rounding(energies: list[Tensor], loss: Tensor, normalized: bool) -> float:
    """What remains of vectors that differ by rounding alone, where eager code may find 0."""
    squares = sum(len(e) if normalized else float(e.nan_to_num(0, 0, 0).square().sum())
                  for e in energies)  # fmt: skip
    return squares * (4 * torch.finfo(loss.dtype).eps) ** 2


@st.composite
def match_calls(draw: st.DrawFn) -> Call:
    dtype = draw(st.sampled_from(WIDE))
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    names = ("means", "variances", "running_means", "running_vars")
    good: dict[str, Any] = {n: [draw(tensors((s,), dtype)) for s in sizes] for n in names}
    wrong = {
        n: [
            *NO_LIST, good[n][1:], [*good[n][1:], torch.zeros(99, dtype=dtype)],
            *([bad, *good[n][1:]] for bad in wrong_tensors(good[n][0])),
            [t.to("meta") for t in good[n]],
            [t.half() for t in good[n]], [t[None] for t in good[n]], [t[:0] for t in good[n]],
        ]
        for n in names
    }  # fmt: skip
    good["reduction"] = draw(st.sampled_from(["mse", "norm", "relative"]))
    return draw(flawed(good, {**wrong, "reduction": NO_CHOICE}))


@effort(30)
@given(given_call=match_calls())
def test_match_loss(device: torch.device, given_call: Call) -> None:
    call, flaw = given_call
    answered, loss = attempt(lambda: hc.match_loss(**call), call)
    assert answered == (flaw is None), (flaw, call)
    if not answered:
        return
    reduction = call.pop("reduction")
    exact = reference.match_loss(*map(double, call.values()), reduction=reduction)
    near(loss, reference.match_loss(*call.values(), reduction=reduction), exact)


@st.composite
def attention_calls(draw: st.DrawFn) -> Call:
    batch, dtype = draw(st.integers(1, 4)), draw(st.sampled_from(FLOATS))
    tails = draw(st.lists(shapes(2, 4, empty=False, largest=5), min_size=1, max_size=3))
    good: dict[str, Any] = {
        side: [draw(tensors((batch, *tail), dtype)) for tail in tails]
        for side in ("teacher", "student")
    }
    good["normalized"] = draw(st.booleans())
    other = torch.float32 if dtype == torch.float64 else torch.float64
    wrong = {
        side: [
            *NO_LIST, [*good[side], good[side][0]],
            *([*good[side][1:], bad] for bad in wrong_tensors(good[side][0])),
            [t.to("meta") for t in good[side]], [t[:0] for t in good[side]],
            [t.to(other) for t in good[side]], [t.flatten() for t in good[side]],
            [torch.cat([t, t]) for t in good[side]],
        ]
        for side in ("teacher", "student")
    }  # fmt: skip
    return draw(flawed(good, {**wrong, "normalized": NO_FLAG}))


@effort(30)
@given(given_call=attention_calls())
def test_attention_loss(device: torch.device, given_call: Call) -> None:
    call, flaw = given_call
    answered, loss = attempt(lambda: hc.attention_loss(**call), call)
    assert answered == (flaw is None), (flaw, call)
    if answered:
        eager = reference.attention_loss(**call)
        sides = double(call["teacher"]), double(call["student"])
        exact = reference.attention_loss(*sides, normalized=call["normalized"])
        energies = [reference.channel_attention(m) for side in sides for m in side]
        near(loss, eager, exact, slack=rounding(energies, loss, call["normalized"]))


@st.composite
def energy_calls(draw: st.DrawFn) -> Call:
    batch, dtype = draw(st.integers(1, 4)), draw(st.sampled_from(WIDE))
    sizes = draw(st.lists(st.integers(1, 20), min_size=1, max_size=3))
    good: dict[str, Any] = {
        side: [draw(tensors((batch, size), dtype, odd=draw(st.booleans()))) for size in sizes]
        for side in ("teacher", "student")
    }
    good["spatial"] = [draw(st.integers(1, 100)) for _ in sizes]
    good["normalized"] = draw(st.booleans())
    other = torch.float32 if dtype == torch.float64 else torch.float64
    wrong = {
        side: [
            *NO_LIST, [*good[side], good[side][0]],
            *([*good[side][1:], bad] for bad in wrong_tensors(good[side][0])),
            [t.to("meta") for t in good[side]], [t[:, :0] for t in good[side]],
            [t.to(other) for t in good[side]], [t[0] for t in good[side]],
        ]
        for side in ("teacher", "student")
    }  # fmt: skip
    bad_sizes = [None, 3, "x", [], [0] * len(sizes), [-1] * len(sizes), [2**70] * len(sizes),
                 [1.5] * len(sizes), ["4"] * len(sizes), [4] * 9]  # fmt: skip
    return draw(flawed(good, {**wrong, "spatial": bad_sizes, "normalized": NO_FLAG}))


@effort(30)
@given(given_call=energy_calls())
def test_attention_energy_loss(device: torch.device, given_call: Call) -> None:
    call, flaw = given_call
    answered, loss = attempt(lambda: ops.attention_energy_loss(**call), call)
    assert answered == (flaw is None), (flaw, call)
    if answered:
        sides = double(call["teacher"]), double(call["student"])
        exact = reference.energy_loss(*sides, call["spatial"], normalized=call["normalized"])
        slack = rounding([*sides[0], *sides[1]], loss, call["normalized"])
        near(loss, reference.energy_loss(**call), exact, slack=slack)


def wrong_logits(x: Tensor) -> list[Any]:
    return [*wrong_tensors(x), None, x[0], x[:0], x[:, :0], x[None], x.to("meta")]


@st.composite
def distillation_calls(draw: st.DrawFn) -> Call:
    shape, dtype = draw(shapes(2, 2, empty=False, largest=9)), draw(st.sampled_from(FLOATS))
    good = {
        "teacher": draw(tensors(shape, dtype)), "student": draw(tensors(shape, dtype)),
        "temperature": draw(st.sampled_from([0.1, 1, 4.0, 20.0, 1e6])),
    }  # fmt: skip
    return draw(flawed(good, {
        "teacher": wrong_logits(good["teacher"]), "student": wrong_logits(good["student"]),
        "temperature": [*NO_NUMBER, 0, -1, float("inf"), None, 10**400],
    }))  # fmt: skip


@effort(30)
@given(given_call=distillation_calls())
def test_distillation_loss(device: torch.device, given_call: Call) -> None:
    call, flaw = given_call
    answered, loss = attempt(lambda: hc.distillation_loss(**call), call)
    assert answered == (flaw is None), (flaw, call)
    if answered:
        exact = reference.distillation_loss(
            call["teacher"].double(), call["student"].double(), call["temperature"]
        )
        size = float(call["teacher"].double().abs().max() + call["student"].double().abs().max())
        near(loss, reference.distillation_loss(**call), exact, slack=1e-6 * size)


@st.composite
def hard_calls(draw: st.DrawFn) -> Call:
    shape = draw(shapes(2, 2, empty=False, largest=9))
    logits = draw(tensors(shape, draw(st.sampled_from(FLOATS))))
    labels = torch.tensor([draw(st.integers(0, shape[1] - 1)) for _ in range(shape[0])])
    good = {
        "logits": logits, "labels": labels, "exponent": draw(st.sampled_from([0, 0.5, 1, 2.0])),
        "detach": draw(st.booleans()), "check_labels": True,
    }  # fmt: skip
    bad_labels = [
        None, 3, labels.tolist(), labels.int(), labels.bool(), labels.float(), labels[:0],
        labels[None], labels - 100, labels + 100, labels.to("meta"), labels + 2**62,
        torch.zeros(2, dtype=torch.int64).expand(2**40, 2), torch.eye(2).long().to_sparse(),
    ]  # fmt: skip
    return draw(flawed(good, {
        "logits": wrong_logits(logits), "labels": bad_labels, "detach": NO_FLAG,
        "check_labels": NO_FLAG,
        "exponent": [*NO_NUMBER, -0.5, float("inf"), None, 10**400],
    }))  # fmt: skip


@effort(30)
@given(given_call=hard_calls())
def test_hard_sample_loss(device: torch.device, given_call: Call) -> None:
    call, flaw = given_call
    answered, found = attempt(lambda: hc.hard_sample_loss(**call), call)
    assert answered == (flaw is None), (flaw, call)
    if answered:
        del call["check_labels"]
        eager = reference.hard_sample_loss(**call)
        exact = reference.hard_sample_loss(**{**call, "logits": call["logits"].double()})
        for f, e, x in zip(found, eager, exact, strict=True):
            near(f, e, x, slack=1e-6 * float(call["logits"].double().abs().max()))


@effort(30)
@given(data=st.data())
def test_plateau_step(device: torch.device, data: st.DataObject) -> None:
    state, rate = ops.new_plateau_state(0.5)
    loss = data.draw(tensors((), data.draw(st.sampled_from(FLOATS))))
    good = {"state": state, "rate": rate, "loss": loss, "patience": data.draw(st.integers(0, 3)),
            "factor": 0.1, "threshold": 1e-4, "minimum": 1e-3}  # fmt: skip
    numbers = [*NO_NUMBER, -1.0, float("inf"), None, 10**400]
    wrong: dict[str, list[Any]] = {
        "state": [None, [1.0], state.float(), state[:2], state[None], state.to("meta"),
                  state.repeat_interleave(2)[::2]],
        "rate": [None, 0.5, rate.double(), rate[None], rate.to("meta")],
        "loss": [*wrong_tensors(loss), loss[None], None],
        "patience": [*NO_NUMBER, 1.5, -1, None], "factor": numbers, "threshold": numbers,
        "minimum": numbers,
    }  # fmt: skip
    call, flaw = data.draw(flawed(good, wrong))
    expected, expected_rate = state.clone(), rate.clone()
    answered, _ = attempt(lambda: ops.plateau_step(**call), call)
    assert answered == (flaw is None), (flaw, call)
    if answered:
        reference.plateau_step(expected, expected_rate, loss, call["patience"], 0.1, 1e-4, 1e-3)
    equal(state, expected)
    equal(rate, expected_rate)


@effort(20)
@given(
    rate=st.sampled_from([0.5, 1, 1e-300, *NO_NUMBER, 0, -1.0, float("inf"), None, 10**400]),
    device_name=st.sampled_from(["cpu", "meta", "cuda:99", "gpu", "", 3.5, "mps", None, b"cpu"]),
)
def test_new_plateau_state(rate: Any, device_name: Any) -> None:
    allowed = any(rate is r for r in (0.5, 1, 1e-300)) and device_name in ("cpu", "meta")
    answered, found = attempt(
        lambda: ops.new_plateau_state(rate, device=device_name), ["learning_rate", "device"]
    )
    assert answered == (type(rate) in (int, float) and rate in (0.5, 1, 1e-300) and allowed)
    if answered and not found[0].is_meta:
        equal(found[0], torch.tensor([rate, float("inf"), 0], dtype=torch.float64))
