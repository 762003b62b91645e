"""batch_norm_activation, forward and backward, against float64 oracles and its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from cases import FORMATS, arrange, check_close, covering, refused
from conftest import DTYPES, SHAPES
from torch import Tensor

import hast_cuda as hc
from hast_cuda.ops import batch_norm_activation, reference


@dataclass(frozen=True)
class Case:
    """Which of the optional parts take part."""

    activation: str | None = "relu"
    residual: bool = False
    bits: int | None = None
    ste: str = "identity"
    energy: bool = False
    affine: bool = True
    target: bool = False
    normalized: bool = False

    def __str__(self) -> str:
        """As in the names of tests."""
        parts = [self.activation, f"q{self.bits}" if self.bits else "", self.ste]
        marks = ["residual"] * self.residual + ["target"] * self.target + ["u"] * self.normalized
        return "-".join([*filter(None, parts), *marks])


CASES = [
    Case(bits=3),
    Case(residual=True, bits=4, energy=True),
    Case("relu6", residual=True, energy=True, affine=False),
    Case("relu6", bits=4, ste="clipped"),
    Case(None, residual=True, energy=True, normalized=True),
    Case(None, bits=8, residual=True, ste="clipped"),
    Case(affine=False, normalized=True),
    Case(residual=True, bits=4, energy=True, target=True),
    Case("relu6", energy=True, target=True, normalized=True),
]


def inputs(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """x, residual, statistics, parameters, range and upstream gradients."""
    wide, channels = reference.arithmetic_dtype(dtype), shape[1]

    def vector(low: float, high: float) -> Tensor:
        return (torch.rand(channels, device=device) * (high - low) + low).to(wide)

    return {
        "x": (torch.randn(shape, device=device) * 2 + 1).to(dtype),
        "residual": torch.randn(shape, device=device).to(dtype),
        "target": torch.randn(shape, device=device).to(dtype),
        "mean": vector(-1, 1),
        "var": vector(0.3, 2),
        "weight": vector(-1.5, 1.5),
        "bias": vector(-1, 1),
        "state": torch.tensor([-0.2, 2.0, 0, 0, 0], device=device, dtype=wide),
        "dy": torch.randn(shape, device=device).to(dtype),
        "du": torch.randn(shape, device=device).to(dtype),
        "denergy": torch.randn(shape[:2], device=device).to(wide) / 10,
    }


def norm(t: dict[str, Tensor]) -> list[Tensor]:
    """Running mean and variance, weight and bias."""
    return [t[name] for name in ("mean", "var", "weight", "bias")]


def run(function: Any, t: dict[str, Tensor], case: Case, *, oracle: bool) -> dict[str, Tensor]:
    """Outputs and every gradient by name."""
    names = ["x", *["weight", "bias"] * case.affine, *["residual"] * case.residual]
    names += ["target"] * case.target
    leaves = {n: t[n].detach().requires_grad_() for n in names}
    weight, bias = (leaves.get(n, t[n]) for n in ("weight", "bias"))
    settings: dict[str, Any] = {n: leaves.get(n) for n in ("residual", "target")}
    settings |= {"activation": case.activation, "bits": case.bits or 4}
    if oracle:
        settings["bounds"] = None if case.bits is None else t["state"][:2]
    else:
        settings["state"] = None if case.bits is None else t["state"]
        settings |= {name: getattr(case, name) for name in ("ste", "energy", "normalized")}
    y, energy, *more = function(leaves["x"], t["mean"], t["var"], weight, bias, 1e-5, **settings)
    total = (y * t["dy"].to(y.dtype)).sum()
    found = {"y": y.detach()}
    if case.energy:
        total = total + (energy * t["denergy"]).sum()
        found["energy"] = energy.detach()
    if case.normalized:
        total = total + (more[0] * t["du"].to(y.dtype)).sum()
        found["u"] = more[0].detach()
    total.backward()
    gradients = {f"d{n}": leaf.grad for n, leaf in leaves.items() if leaf.grad is not None}
    return {**found, **gradients}


def clip_upstream(t: dict[str, Tensor], case: Case) -> None:
    """A clipped quantizer is the identity with the upstream gradient stopped outside the range."""
    shape = {"activation": case.activation, "residual": t["residual"] if case.residual else None}
    v = reference.batch_norm_activation(t["x"], *norm(t), 1e-5, **shape)[0]
    bounds = t["state"][0:1], t["state"][1:2]
    t["dy"] = reference.fake_quantize_backward(t["dy"].to(v.dtype), v, *bounds, case.bits or 4, clipped=True)


@covering(layout=FORMATS, shape=SHAPES, dtype=DTYPES, case=CASES)
def test_against_float64(
    device: torch.device, layout: str, shape: tuple[int, ...], dtype: torch.dtype, case: Case
) -> None:
    t = inputs(shape, dtype, device)
    t["x"] = arrange(t["x"], layout)
    exact = {k: v.double() for k, v in t.items()}
    if case.ste == "clipped":
        clip_upstream(exact, case)
    kernel = run(batch_norm_activation, t, case, oracle=False)
    eager = run(reference.batch_norm_activation, t, case, oracle=True)
    oracle = run(reference.batch_norm_activation, exact, case, oracle=True)
    assert kernel.keys() == oracle.keys()
    assert kernel["y"].dtype == dtype
    assert kernel.get("u", kernel["y"]).dtype == dtype
    atol = {torch.float16: 4e-3, torch.bfloat16: 4e-2, torch.float32: 4e-6, torch.float64: 1e-12}
    if case.bits is not None:  # values on the edge between two codes may take either
        scale, zero = reference.quantizer_parameters(exact["state"][0], exact["state"][1], case.bits)
        codes = kernel.pop("y").double() * scale
        assert float((codes - codes.round()).abs().max()) < 1e-3 + float(scale * atol[dtype])
        assert float(codes.min()) > -0.5 + float(zero) - 2 ** (case.bits - 1)
        exact_codes = oracle.pop("y") * scale
        near = (codes - exact_codes).abs()
        assert float(near.max()) < 1.01 + float(scale * atol[dtype])
        if dtype in (torch.float32, torch.float64):
            assert float((near > 0.5).double().mean()) < 1e-3
    half = dtype in (torch.float16, torch.bfloat16)
    for name, value in kernel.items():
        # A clipped oracle clips exact values, not those a half type holds; and a half output
        # rounds to 6 where the value does not reach it.
        rounded_to_six = case.activation == "relu6" and case.bits is None
        if name != "y" and half and (case.ste == "clipped" or rounded_to_six):
            continue
        check_close(value, eager.get(name, value) if case.ste != "clipped" else value, oracle[name], 10 * atol[dtype])


@pytest.mark.parametrize("layout", FORMATS)
def test_equals_its_parts(device: torch.device, layout: str) -> None:
    t = inputs((6, 24, 12, 10), torch.float64, device)
    x, residual = arrange(t["x"], layout), arrange(t["residual"], layout)
    y, energy = batch_norm_activation(
        x, *norm(t), residual=residual, activation="relu", state=t["state"], bits=4, energy=True
    )
    u, _, _ = hc.batch_norm_match(x, *norm(t))
    parts = hc.quantize_activation(u + residual, t["state"], 4, activation="relu")
    torch.testing.assert_close(y, parts)
    torch.testing.assert_close(energy, hc.channel_attention(u))
    target = arrange(t["target"], "contiguous")  # its layout may be another
    _, distance, same, _ = batch_norm_activation(x, *norm(t), energy=True, target=target, normalized=True, twice=True)
    torch.testing.assert_close(same, u)
    torch.testing.assert_close(distance, hc.channel_attention(u - target))


def test_more_images_and_channels_than_one_block(device: torch.device) -> None:
    for shape in ((40, 160, 2, 3), (3, 300, 40, 40), (2, 4, 130, 130)):
        for layout in ("contiguous", "channels_last"):
            t = inputs(shape, torch.float32, device)
            t["x"] = arrange(t["x"], layout)
            exact = {name: value.double() for name, value in t.items()}
            case = Case(energy=True, target=True, normalized=True)
            found = run(batch_norm_activation, t, case, oracle=False)
            expected = run(reference.batch_norm_activation, exact, case, oracle=True)
            for name, rtol, atol in (("energy", 1e-5, 1e-5), ("dx", 1e-4, 1e-4), ("dweight", 1e-4, 1e-2)):
                torch.testing.assert_close(found[name].double(), expected[name], rtol=rtol, atol=atol)


def test_one_pixel_and_no_space(device: torch.device) -> None:
    for shape in ((5, 7), (5, 7, 1, 1)):
        t = inputs(shape, torch.float32, device)
        y, energy = batch_norm_activation(t["x"], t["mean"], t["var"], energy=True)
        u = (t["x"].flatten(1) - t["mean"]) / (t["var"] + 1e-5).sqrt()
        torch.testing.assert_close(y.flatten(1), u, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(energy, u.square(), rtol=1e-5, atol=1e-5)


def test_range_so_extreme_that_it_takes_the_exact_path(device: torch.device) -> None:
    for bounds in ([0.0, 0.0], [0.0, 1e30], [-1e-30, 1e-30]):
        t = inputs((2, 3, 4, 4), torch.float32, device)
        state = torch.tensor([*bounds, 0, 0, 0], device=device)
        y, _ = batch_norm_activation(t["x"], t["mean"], t["var"], activation="relu", state=state)
        u, _, _ = hc.batch_norm_match(t["x"], t["mean"], t["var"])
        torch.testing.assert_close(y, hc.quantize_activation(u, state, 4, activation="relu"), equal_nan=True)


@pytest.mark.parametrize("case", [c for c in CASES if c.bits is None], ids=str)
def test_gradcheck(device: torch.device, case: Case) -> None:
    t = inputs((3, 2, 3, 4), torch.float64, device)
    names = ["x", "weight", "bias", *["residual"] * case.residual, *["target"] * case.target]

    def function(*values: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(names, values, strict=True))
        settings = {name: given.get(name) for name in ("residual", "target")}
        settings |= {"activation": case.activation, "normalized": case.normalized}
        return batch_norm_activation(given["x"], *norm(t | given), 1e-3, energy=True, **settings)

    assert torch.autograd.gradcheck(function, [t[n].requires_grad_() for n in names])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_same_bits_twice(device: torch.device, layout: str) -> None:
    t = inputs((16, 33, 20, 20), torch.float32, device)
    t["x"] = arrange(t["x"], layout)
    case = Case(residual=True, bits=4, energy=True, target=True, normalized=True)
    first, second = (run(batch_norm_activation, t, case, oracle=False) for _ in range(2))
    assert all(torch.equal(first[n], second[n]) for n in first)


def test_nothing_wanted_costs_no_gradient(device: torch.device) -> None:
    t = inputs((2, 3, 4, 4), torch.float32, device)
    x = t["x"].requires_grad_()
    _, energy = batch_norm_activation(x, t["mean"], t["var"], energy=True, residual=t["residual"])
    assert energy is not None
    (gradient,) = torch.autograd.grad(energy.sum(), x)  # no gradient of y at all
    u = reference.affine(x, t["mean"], t["var"], None, None, 1e-5)
    (expected,) = torch.autograd.grad(u.square().sum(), x)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


def test_opcheck(device: torch.device) -> None:
    x, c = torch.randn(3, 4, 5, 5, device=device), torch.rand(4, device=device)
    bounds, energy = torch.tensor([0.0, 1.0], device=device), torch.rand(3, 4, device=device)
    torch.library.opcheck(
        torch.ops.hast_cuda.batch_norm_activation.default,
        (x, c, c, c, None, 1e-5, "relu", x.clone(), bounds, 4, True, x.clone(), True),
    )
    given, maps = (x, None, None, None, energy, x.clone()), (x.clone(), None, x.clone(), x.clone())
    torch.library.opcheck(
        torch.ops.hast_cuda.batch_norm_backward.default,
        (*given, *maps, None, c, c, c, c, 1e-5, bounds, 4, "relu", 2, True, True, True),
    )


X, C = torch.randn(2, 3, 4, 4), torch.ones(3)


test_refusals = refused(
    (lambda: batch_norm_activation(X, C[:2], C), ValueError, r"running_mean has shape \(2,\)"),
    (lambda: batch_norm_activation(X[:0], C, C), ValueError, "at least one element"),
    (lambda: batch_norm_activation(X, C, C, residual=X[:1]), ValueError, "residual is"),
    (
        lambda: batch_norm_activation(X, C, C, energy=True, target=X.double()),
        ValueError,
        r"target is .* torch.float64; expected",
    ),
    (lambda: batch_norm_activation(X, C, C, target=X), ValueError, "energy is False"),
    (lambda: batch_norm_activation(X.int(), C, C), TypeError, "x has dtype torch.int32"),
    (lambda: batch_norm_activation(X, C, C, state=C), ValueError, "state is"),
    (lambda: batch_norm_activation(X, C, C, state=hc.ops.new_range_state(), bits=9), ValueError, "bits is 9"),
    (lambda: batch_norm_activation(X, C, C, ste="soft"), ValueError, "ste is 'soft'"),
    (lambda: batch_norm_activation(X, C, C, activation="gelu"), ValueError, "activation is"),
)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_output_used_twice_gets_the_sum_of_both_gradients(device: torch.device, case: Case, layout: str) -> None:
    t = inputs((3, 12, 6, 5), torch.float64, device)
    t["x"] = arrange(t["x"], layout)
    settings = {name: getattr(case, name) for name in ("activation", "ste", "energy", "normalized")}
    settings |= {"state": None if case.bits is None else t["state"], "bits": case.bits or 4}
    settings["target"] = t["target"] if case.target else None
    found = []
    for twice in (False, True):
        leaves = [t[n].detach().requires_grad_() for n in ("x", "weight", "bias", "residual")]
        residual = leaves[3] if case.residual else None
        y, energy, *more = batch_norm_activation(
            leaves[0], t["mean"], t["var"], *leaves[1:3], twice=twice, residual=residual, **settings
        )
        other = more[-1] if twice else y
        assert torch.equal(y, other)
        loss = (y * t["dy"]).sum() + (other * t["dy"].flip(0)).sum()
        if case.energy:
            loss = loss + (energy * t["denergy"]).sum()
        if case.normalized:
            loss = loss + (more[0] * t["du"]).sum()
        found.append(torch.autograd.grad(loss, leaves if case.residual else leaves[:3]))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("which", [0, 1])
def test_only_one_of_two_uses_has_a_gradient(device: torch.device, which: int) -> None:
    t = inputs((2, 3, 4, 4), torch.float64, device)
    x = t["x"].requires_grad_()
    outputs = batch_norm_activation(x, t["mean"], t["var"], activation="relu", twice=True)
    (gradient,) = torch.autograd.grad((outputs[0], outputs[2])[which].sum(), x)
    y, _ = batch_norm_activation(x, t["mean"], t["var"], activation="relu")
    torch.testing.assert_close(gradient, torch.autograd.grad(y.sum(), x)[0])
