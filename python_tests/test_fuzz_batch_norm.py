"""Hostile arguments for the BatchNorm ops and the attention vectors."""

from __future__ import annotations

from typing import Any

import torch
from fuzzing.effort import effort
from fuzzing.hostile import tried, wrong_tensors
from fuzzing.near import doubled, equal, near, size_of
from fuzzing.tensors import FLOATS, shapes, tensors
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import hast_cuda as hc
from hast_cuda import ops
from hast_cuda.ops import reference

Wrong = dict[str, list[Any]]


@st.composite
def arguments(draw: st.DrawFn) -> tuple[dict[str, Any], Wrong]:
    """What both ops take, and what is wrong in its place."""
    shape = draw(shapes(2, 5, empty=False, largest=5))
    x = draw(tensors(shape, draw(st.sampled_from(FLOATS))))
    wide = reference.arithmetic_dtype(x.dtype)
    mean, var, weight, bias = (draw(tensors(shape[1:2], wide, odd=False)) for _ in range(4))
    good = {
        "x": x,
        "running_mean": mean,
        "running_var": var.square() + 0.1,
        "weight": draw(st.sampled_from([None, weight])),
        "bias": draw(st.sampled_from([None, bias])),
        "eps": draw(st.sampled_from([1e-5, 0.8, 1e-12])),
        "twice": draw(st.booleans()),
        "activation": draw(st.sampled_from([None, "relu", "relu6"])),
        "residual": draw(st.none() | tensors(shape, x.dtype)),
    }
    some = torch.zeros(shape[1], dtype=wide)
    bad = [
        torch.zeros(shape[1] + 1),
        torch.zeros(()),
        some[None],
        some.to(torch.int64),
        some.to(torch.complex64),
        some.to("meta"),
        some.expand(2**40, shape[1]),
    ]
    maps = [x[:0], x.to(torch.complex64), x[None], x.to("meta")]
    wrong = {"x": [x[0, 0, ...].flatten()[:1], x[:0], x[:, :0]], "residual": maps}
    return good, wrong | dict.fromkeys(("running_mean", "running_var", "weight", "bias"), bad)


@effort(15)
@given(data=st.data())
def test_batch_norm_match(device: torch.device, data: st.DataObject) -> None:
    good, wrong = data.draw(arguments())
    for found in tried(data, hc.batch_norm_match, good, **wrong):
        twice = good.pop("twice")
        assert len(found) == 3 + twice
        if twice:
            equal(found[3], found[0])
        eager = reference.batch_norm_match(**good)
        exact = reference.batch_norm_match(**doubled(good))
        size = size_of(good["x"], good["residual"])
        for name, f, e, x in zip(("y", "mean", "var"), found, eager, exact, strict=False):
            near(f, e, x, name, slack=1e-6 * (size**2 + 10) if name == "var" else 1e-5 * size)


@effort(15)
@given(data=st.data())
def test_batch_norm_activation(device: torch.device, data: st.DataObject) -> None:
    draw = data.draw
    good, wrong = draw(arguments())
    state = hc.new_range_state(reference.arithmetic_dtype(good["x"].dtype))
    state[0], state[1] = -1.0, 2.0
    x, energy = good["x"], draw(st.booleans())
    target = draw(st.none() | tensors(tuple(x.shape), x.dtype)) if energy else None
    good |= {
        "state": draw(st.sampled_from([None, state])),
        "bits": draw(st.integers(2, 8)),
        "ste": draw(st.sampled_from(["identity", "clipped"])),
        "normalized": draw(st.booleans()),
        "energy": energy,
        "target": target,
    }
    wrong["state"] = [state[:2], state[None], state.half(), state.to("meta")]
    wrong["target"] = wrong["residual"]
    for y, energies, *more in tried(data, hc.batch_norm_activation, good, **wrong):
        twice, normalized = good.pop("twice"), good.pop("normalized")
        assert len(more) == twice + normalized
        assert (energies is not None) == good.pop("energy")
        size = size_of(x, good["residual"])
        quantized = good.pop("state") is not None
        del good["ste"]
        eager = reference.batch_norm_activation(**good)
        exact = reference.batch_norm_activation(**doubled(good))
        if energies is not None:
            # of a difference of numbers this large
            apart = 0.0 if target is None else size_of(exact[2], target)
            slack = 1e-6 * x[0, 0].numel() * apart**2
            near(energies, eager[1], exact[1], "energy", slack=slack)
        if normalized:
            near(more[0], eager[2], exact[2], "u", slack=1e-5 * size)
        if not quantized:
            near(y, eager[0], exact[0], "y", slack=1e-5 * size)
            continue
        # Rounding may take the neighbour of a value in the middle: one step of the grid.
        step = 3.0 / (2 ** good["bits"] - 1)
        expected = reference.batch_norm_activation(**good, bounds=state[:2])[0]
        finite = expected.isfinite()
        assert torch.equal(y.isnan(), expected.isnan())
        gap = (y.double() - expected.double())[finite].abs()
        assert not gap.numel() or float(gap.max()) <= step * 1.01 + 8 * torch.finfo(y.dtype).eps


MAPS = shapes(3, 5, empty=False, largest=5).flatmap(
    lambda shape: st.sampled_from(FLOATS).flatmap(lambda dtype: tensors(shape, dtype))
)


def is_near(energy: Tensor, feature: Tensor) -> None:
    exact = reference.channel_attention(feature.double())
    near(energy, reference.channel_attention(feature), exact)


@effort(15)
@given(data=st.data())
def test_channel_attention(device: torch.device, data: st.DataObject) -> None:
    feature = data.draw(MAPS)
    bad = [feature[0].flatten(1), feature[:0], feature[..., :0]]
    for energy in tried(data, hc.channel_attention, {"feature": feature}, feature=bad):
        is_near(energy, feature)


@effort(15)
@given(data=st.data())
def test_channel_attentions(device: torch.device, data: st.DataObject) -> None:
    features = data.draw(st.lists(MAPS, max_size=3))
    bad = [[*features, wrong] for wrong in wrong_tensors(torch.zeros(2, 3, 4))]
    bad += [torch.zeros(2, 3, 4), [*features, torch.zeros(2, 3)]]
    bad += [[torch.zeros(2, 3, 4, device="meta"), *features]] if features else []
    for found in tried(data, ops.channel_attentions, {"features": features}, features=bad):
        for energy, feature in zip(found, features, strict=True):
            is_near(energy, feature)
