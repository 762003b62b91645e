"""Hostile arguments for the losses and the plateau rule."""

from __future__ import annotations

from typing import Any

import torch
from fuzzing.effort import effort
from fuzzing.hostile import tried, wrong_tensors
from fuzzing.judge import attempt
from fuzzing.near import doubled, equal, near
from fuzzing.tensors import FLOATS, shapes, tensors
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import hast_cuda as hc
from hast_cuda import ops
from hast_cuda.ops import reference

DTYPES = st.sampled_from(FLOATS)
WIDE = st.sampled_from([torch.float32, torch.float64])
SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=3)


def wrong_lists(given: list[Tensor]) -> list[Any]:
    """What no loss takes in the place of a list of tensors."""
    first, *rest = given
    other = torch.float32 if first.dtype == torch.float64 else torch.float64
    return [
        [],
        torch.zeros(1, 2, 3, 4),
        rest,
        [*given, first],
        *([bad, *rest] for bad in wrong_tensors(first)),
        [t.to("meta") for t in given],
        [t.to(other) for t in given],
        [t[None] for t in given],
        [t[..., :0] for t in given],
    ]


def rounding(energies: list[Tensor], loss: Tensor, normalized: bool) -> float:
    """What remains of vectors that differ by rounding alone, where eager code may find 0."""
    squares = sum(len(e) if normalized else float(e.nan_to_num(0, 0, 0).square().sum()) for e in energies)
    return squares * (4 * torch.finfo(loss.dtype).eps) ** 2


@effort(15)
@given(data=st.data())
def test_match_loss(device: torch.device, data: st.DataObject) -> None:
    dtype, sizes = data.draw(WIDE), data.draw(SIZES)
    names = ("means", "variances", "running_means", "running_vars")
    good: dict[str, Any] = {n: [data.draw(tensors((s,), dtype)) for s in sizes] for n in names}
    wrong = {n: wrong_lists(good[n]) for n in names}
    good["reduction"] = data.draw(st.sampled_from(["mse", "norm", "relative"]))
    for loss in tried(data, hc.match_loss, good, **wrong):
        near(loss, reference.match_loss(**good), reference.match_loss(**doubled(good)))


def sides(draw: st.DrawFn, tails: list[tuple[int, ...]], dtype: torch.dtype) -> dict[str, Any]:
    batch = draw(st.integers(1, 4))
    return {side: [draw(tensors((batch, *tail), dtype)) for tail in tails] for side in ("teacher", "student")}


@effort(15)
@given(data=st.data())
def test_attention_loss(device: torch.device, data: st.DataObject) -> None:
    tail = shapes(2, 4, empty=False, largest=5)
    good = sides(data.draw, data.draw(st.lists(tail, min_size=1, max_size=3)), data.draw(DTYPES))
    wrong = {
        side: [*wrong_lists(maps), [t.flatten() for t in maps], [torch.cat([t, t]) for t in maps]]
        for side, maps in good.items()
    }
    normalized = good["normalized"] = data.draw(st.booleans())
    for loss in tried(data, hc.attention_loss, good, **wrong):
        exact = doubled(good)
        maps = [*exact["teacher"], *exact["student"]]
        slack = rounding([reference.channel_attention(m) for m in maps], loss, normalized)
        near(loss, reference.attention_loss(**good), reference.attention_loss(**exact), slack=slack)


@effort(15)
@given(data=st.data())
def test_attention_energy_loss(device: torch.device, data: st.DataObject) -> None:
    tails = [(size,) for size in data.draw(SIZES)]
    good = sides(data.draw, tails, data.draw(WIDE))
    wrong = {side: [*wrong_lists(e), [t[0] for t in e]] for side, e in good.items()}
    good["spatial"] = [data.draw(st.integers(1, 100)) for _ in tails]
    normalized = good["normalized"] = data.draw(st.booleans())
    wrong["spatial"] = [[], [4] * 9, *([n] * len(tails) for n in (0, -1, 2**70, 1.5, "4"))]
    for loss in tried(data, ops.attention_energy_loss, good, **wrong):
        exact = doubled(good)
        slack = rounding([*exact["teacher"], *exact["student"]], loss, normalized)
        near(loss, reference.energy_loss(**good), reference.energy_loss(**exact), slack=slack)


def wrong_logits(x: Tensor) -> list[Any]:
    return [x[0], x[:0], x[:, :0], x[None], x.to("meta")]


@effort(15)
@given(data=st.data())
def test_distillation_loss(device: torch.device, data: st.DataObject) -> None:
    shape, dtype = data.draw(shapes(2, 2, empty=False, largest=9)), data.draw(DTYPES)
    good = {side: data.draw(tensors(shape, dtype)) for side in ("teacher", "student")}
    wrong = {side: wrong_logits(x) for side, x in good.items()}
    size = sum(float(x.double().abs().max()) for x in good.values())
    call = {**good, "temperature": data.draw(st.sampled_from([0.1, 1, 4.0, 20.0, 1e6]))}
    for loss in tried(data, hc.distillation_loss, call, **wrong):
        exact = reference.distillation_loss(**doubled(call))
        near(loss, reference.distillation_loss(**call), exact, slack=1e-6 * size)


@effort(15)
@given(data=st.data())
def test_hard_sample_loss(device: torch.device, data: st.DataObject) -> None:
    shape = data.draw(shapes(2, 2, empty=False, largest=9))
    logits = data.draw(tensors(shape, data.draw(DTYPES)))
    labels = torch.tensor([data.draw(st.integers(0, shape[1] - 1)) for _ in range(shape[0])])
    good = {
        "logits": logits,
        "labels": labels,
        "detach": data.draw(st.booleans()),
        "exponent": data.draw(st.sampled_from([0, 0.5, 1, 2.0])),
        "check_labels": True,
    }
    bad_labels = [
        labels.int(),
        labels.bool(),
        labels.float(),
        labels[:0],
        labels[None],
        labels - 100,
        labels + 100,
        labels.to("meta"),
        labels + 2**62,
        torch.zeros(2, dtype=torch.int64).expand(2**40, 2),
        torch.eye(2).long().to_sparse(),
    ]
    for found in tried(data, hc.hard_sample_loss, good, logits=wrong_logits(logits), labels=bad_labels):
        del good["check_labels"]
        eager, exact = (reference.hard_sample_loss(**good), reference.hard_sample_loss(**doubled(good)))
        for f, e, x in zip(found, eager, exact, strict=True):
            near(f, e, x, slack=1e-6 * float(logits.double().abs().max()))


@effort(15)
@given(data=st.data())
def test_plateau_step(device: torch.device, data: st.DataObject) -> None:
    state, rate = ops.new_plateau_state(0.5)
    loss = data.draw(tensors((), data.draw(DTYPES)))
    numbers = {"patience": data.draw(st.integers(0, 3)), "factor": 0.1, "threshold": 1e-4, "minimum": 1e-3}
    expected, expected_rate = state.clone(), rate.clone()
    for _ in tried(
        data,
        ops.plateau_step,
        {"state": state, "rate": rate, "loss": loss, **numbers},
        state=[state.float(), state[:2], state[None], state.to("meta"), state.repeat_interleave(2)[::2]],
        rate=[rate.double(), rate[None], rate.to("meta")],
        loss=[loss[None]],
        patience=[1.5],
    ):
        reference.plateau_step(expected, expected_rate, loss, **numbers)
    equal(state, expected)
    equal(rate, expected_rate)


@effort(20)
@given(
    rate=st.sampled_from([0.5, 1, 1e-300, float("nan"), 0, -1.0, float("inf"), None, "1", 10**400]),
    device_name=st.sampled_from(["cpu", "meta", "cuda:99", "gpu", "", 3.5, "mps", None, b"cpu"]),
)
def test_new_plateau_state(rate: Any, device_name: Any) -> None:
    answered, found = attempt(lambda: ops.new_plateau_state(rate, device=device_name), ["learning_rate", "device"])
    assert answered == (rate in (0.5, 1, 1e-300) and device_name in ("cpu", "meta"))
    if answered and not found[0].is_meta:
        equal(found[0], torch.tensor([rate, float("inf"), 0], dtype=torch.float64))
