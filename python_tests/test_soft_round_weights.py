"""Soft-rounded weights against a float64 oracle: weights, regulariser, gradients, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from cases import arrange, check_close, covering
from torch import Tensor

import hast_cuda as hc
from hast_cuda.ops import reference

# Rows of a warp and of a block, whole vectors and ragged, one element, two axes and four.
SHAPES = [(16, 3, 3, 3), (5, 7), (1, 1, 1, 1), (64, 64, 3, 3), (10, 64), (33, 1, 5, 5), (3, 2049), (6, 516)]
DTYPES = [torch.float32, torch.float64]


@dataclass
class Layers:
    """The tensors of some layers."""

    bases: list[Tensor]
    roundings: list[Tensor]
    steps: list[Tensor]
    lows: list[Tensor]
    bits: list[int]

    @property
    def arguments(self) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor], list[int]]:
        """As the op takes them."""
        return self.bases, self.roundings, self.steps, self.lows, self.bits

    def double(self) -> Layers:
        """The same in float64."""
        wide = ([x.double() for x in group] for group in self.arguments[:4])
        return Layers(*wide, self.bits)


def layers(shapes: Sequence[tuple[int, ...]], device: torch.device, dtype: torch.dtype) -> Layers:
    """Levels on both sides of either end of the grid, V where h is between 0 and 1, or cut."""
    made = Layers([], [], [], [], [2 + i % 7 for i in range(len(shapes))])
    for shape, bits in zip(shapes, made.bits, strict=True):
        low = torch.randint(-9, 3, shape[:1], device=device)
        above = torch.randint(-3, 2**bits + 3, shape, device=device)
        rounding = 2 * torch.randn(shape, device=device)
        # where one rounding decides whether h is cut, oracle and kernel may differ
        near = (1.2 * torch.sigmoid(rounding) - 0.6).abs().sub(0.5).abs() < 1e-4
        made.bases.append((above + low.reshape(-1, *[1] * (len(shape) - 1))).to(dtype))
        made.roundings.append(rounding.masked_fill(near, 0.25).to(dtype))
        made.steps.append((torch.rand(shape[:1], device=device) + 0.1).to(dtype))
        made.lows.append(low.to(dtype))
    return made


def evaluate(
    function: Callable[..., Any], given: Layers, beta: float | None, *, weights: bool = True, factor: float | None = 0.3
) -> list[Tensor]:
    """Weights, regulariser, and the gradients of V and of the steps from what is asked for."""
    kind = given.bases[0]
    leaves = [x.detach().clone().requires_grad_() for x in (*given.roundings, *given.steps)]
    count = len(given.bases)
    exponent = None if beta is None else torch.tensor(beta, dtype=kind.dtype, device=kind.device)
    outputs, regulariser = function(given.bases, leaves[:count], leaves[count:], given.lows, given.bits, exponent)
    reached = list(outputs) if weights else []
    upstream = [torch.linspace(-1, 2, y.numel(), dtype=y.dtype, device=y.device).view(y.shape) for y in reached]
    if regulariser is not None and factor is not None:
        reached.append(regulariser)
        upstream.append(torch.full_like(regulariser, factor))
    gradients = torch.autograd.grad(reached, leaves, upstream, allow_unused=True)
    zeroed = [torch.zeros_like(x) if g is None else g for g, x in zip(gradients, leaves, strict=True)]
    return [*(y.detach() for y in outputs), *([] if regulariser is None else [regulariser.detach()]), *zeroed]


def check_against_float64(given: Layers, beta: float | None, **asked: Any) -> None:
    found = evaluate(hc.ops.soft_round_weights, given, beta, **asked)
    eager = evaluate(reference.soft_round_weights, given, beta, **asked)
    exact = evaluate(reference.soft_round_weights, given.double(), beta, **asked)
    dtype = given.bases[0].dtype
    for ours, theirs, oracle in zip(found, eager, exact, strict=True):
        assert ours.dtype == dtype
        assert ours.stride() == theirs.stride()
        check_close(ours, theirs, oracle, 1e-13 if dtype == torch.float64 else 1e-6)


@covering(beta=[1.0, 2.5, 20.0], asked=["both", "weights", "regulariser"], dtype=DTYPES)
def test_against_float64(device: torch.device, dtype: torch.dtype, beta: float, asked: str) -> None:
    reached = {"both": {}, "weights": {"factor": None}, "regulariser": {"weights": False}}[asked]
    check_against_float64(layers(SHAPES, device, dtype), beta, **reached)


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_a_regulariser(device: torch.device, dtype: torch.dtype) -> None:
    check_against_float64(layers(SHAPES, device, dtype), None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["channels_last", "transposed", "unaligned"])
@pytest.mark.parametrize("arranged", ["bases", "roundings", "both"])
def test_layouts_and_unaligned_memory(device: torch.device, dtype: torch.dtype, layout: str, arranged: str) -> None:
    given = layers([(8, 4, 4, 4), (4, 32, 4, 4)], device, dtype)
    for name in ("bases", "roundings"):
        if arranged in (name, "both"):
            setattr(given, name, [arrange(x, layout) for x in getattr(given, name)])
    contiguous = layers([(8, 4, 4, 4), (4, 32, 4, 4)], device, dtype)
    for name in ("bases", "roundings", "steps", "lows"):
        setattr(contiguous, name, [x.contiguous().clone() for x in getattr(given, name)])
    found = evaluate(hc.ops.soft_round_weights, given, 3.0)
    expected = evaluate(hc.ops.soft_round_weights, contiguous, 3.0)
    for ours, theirs in zip(found, expected, strict=True):
        check_close(ours, theirs, theirs.double())  # sums go along memory


def test_unaligned_gradient(device: torch.device) -> None:
    given = layers([(8, 64)], device, torch.float32)
    (rounding,) = (x.requires_grad_() for x in given.roundings)
    (weight,), _ = hc.ops.soft_round_weights(*given.arguments)
    upstream = torch.randn(8, 64, device=device)
    (aligned,) = torch.autograd.grad(weight, rounding, upstream, retain_graph=True)
    (unaligned,) = torch.autograd.grad(weight, rounding, arrange(upstream, "unaligned"))
    assert torch.equal(aligned, unaligned)


def test_known_vector(device: torch.device) -> None:
    rounding = torch.tensor([[0.0, 30.0, -30.0, 0.0, 0.0]], device=device, requires_grad=True)
    base = torch.tensor([[1.0, 1.0, 1.0, -5.0, 9.0]], device=device)  # the last two are off the grid
    step = torch.tensor([0.5], device=device, requires_grad=True)
    low, beta = torch.tensor([-2.0], device=device), torch.tensor(2.0, device=device)
    (weight,), regulariser = hc.ops.soft_round_weights([base], [rounding], [step], [low], 2, beta)
    assert weight.tolist() == [[0.5, 0.5, 0.5, -1.0, 0.5]]  # levels -2 to 1
    (weight,), regulariser = hc.ops.soft_round_weights([base], [rounding], [step], [low], 3, beta)
    assert weight.tolist() == [[0.75, 1.0, 0.5, -1.0, 2.5]]  # levels -2 to 5
    assert regulariser.tolist() == 3.0  # three undecided
    upstream = torch.tensor([[2.0, 4.0, 8.0, 16.0, 32.0]], device=device)
    slopes, of_step = torch.autograd.grad(weight, (rounding, step), upstream)
    torch.testing.assert_close(slopes, torch.tensor([[2 * 0.5 * 0.3, 0, 0, 0, 0]], device=device))
    assert of_step.tolist() == [2 * 1.5 + 4 * 2 + 8 * 1 - 16 * 2 + 32 * 5]


def test_more_weights_than_one_table_holds(device: torch.device) -> None:
    shapes = [(1 + i % 5, 1 + i % 11) for i in range(150)]
    shapes[3], shapes[40], shapes[-1] = (2, 700), (0, 4), (3, 0)
    given = layers(shapes, device, torch.float32)
    found = evaluate(hc.ops.soft_round_weights, given, 3.0)
    eager = evaluate(reference.soft_round_weights, given, 3.0)
    for ours, theirs in zip(found, eager, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_weights_without_elements(device: torch.device) -> None:
    given = layers([(0, 4), (3, 0)], device, torch.float32)
    *_, regulariser, _, _, first, second = evaluate(hc.ops.soft_round_weights, given, 2.0)
    assert float(regulariser) == 0.0
    assert first.shape == (0,)
    assert second.tolist() == [0.0] * 3
    beta = torch.tensor(2.0)
    assert hc.ops.soft_round_weights([], [], [], [], 4) == ([], None)
    assert hc.ops.soft_round_weights([], [], [], [], 4, beta) == ([], torch.zeros(()))


def test_a_weight_that_no_loss_reaches(device: torch.device) -> None:
    given = layers([(4, 9), (4, 300)], device, torch.float32)
    leaves = [x.requires_grad_() for x in (*given.roundings, *given.steps)]
    (_, reached), _ = hc.ops.soft_round_weights(*given.arguments)
    first, second, step, other = torch.autograd.grad(reached.sum(), leaves)
    assert not first.any()
    assert not step.any()
    assert second.any()
    assert other.all()


@pytest.mark.parametrize("at", [0, 1])
def test_nan_reaches_weight_regulariser_and_gradients(device: torch.device, at: int) -> None:
    given = layers([(2, 9), (3, 700)], device, torch.float32)
    given.roundings[at][1, 5] = math.nan
    *weights, regulariser, first, second, _, _ = evaluate(hc.ops.soft_round_weights, given, 2.0)
    for kind in (weights, [first, second]):
        assert [int(x.isnan().sum()) for x in kind] == [1 - at, at]
        assert kind[at][1, 5].isnan()
    assert regulariser.isnan()


def test_same_bits_twice(device: torch.device) -> None:
    given = layers(SHAPES, device, torch.float32)
    first, second = (evaluate(hc.ops.soft_round_weights, given, 3.0) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_same_bits_with_any_number_of_threads() -> None:
    given = layers([(64, 64, 3, 3), (32, 100)], torch.device("cpu"), torch.float32)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(evaluate(hc.ops.soft_round_weights, given, 3.0))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_gradcheck(device: torch.device) -> None:
    given = layers([(3, 5), (2, 300)], device, torch.float64)
    given.roundings = [x.clamp(-2, 2) for x in given.roundings]  # away from where h is cut
    beta = torch.tensor(3.0, dtype=torch.float64, device=device)
    leaves = [x.requires_grad_() for x in (*given.roundings, *given.steps)]

    def call(*leaves: Tensor) -> tuple[Tensor, ...]:
        weights, regulariser = hc.ops.soft_round_weights(
            given.bases, leaves[:2], leaves[2:], given.lows, given.bits, beta
        )
        assert regulariser is not None
        return (*weights, regulariser)

    assert torch.autograd.gradcheck(call, leaves, nondet_tol=0.0, fast_mode=True)


def test_second_derivatives_are_refused(device: torch.device) -> None:
    given = layers([(3, 5)], device, torch.float32)
    (rounding,) = (x.requires_grad_() for x in given.roundings)
    (weight,), _ = hc.ops.soft_round_weights(*given.arguments)
    (gradient,) = torch.autograd.grad(weight.square().sum(), rounding, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        gradient.sum().backward()


def test_opcheck(device: torch.device) -> None:
    given = layers([(3, 4), (2, 1, 3, 3), (2, 0)], device, torch.float32)
    ops, factor = torch.ops.hast_cuda, torch.tensor(0.5, device=device)
    upstream = [torch.ones_like(x) for x in given.bases]
    for beta in (None, torch.tensor(2.0, device=device)):
        torch.library.opcheck(ops.soft_round_weights.default, (*given.arguments, beta))
        arguments = (upstream, None if beta is None else factor, *given.arguments, beta)
        torch.library.opcheck(ops.soft_round_weights_backward.default, arguments)


X, V = torch.zeros(4, 3), torch.zeros(4)
GOOD = {"bases": [X], "roundings": [X], "steps": [V], "lows": [V], "bits": 4}
TWO = {"bases": [X, X.double()], "roundings": [X, X.double()], "steps": [V, V.double()], "lows": [V, V.double()]}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"bases": X}, TypeError, "bases must be a list of tensors"),
        ({"steps": [3]}, TypeError, r"steps\[0\] must be a torch.Tensor"),
        ({"lows": []}, ValueError, r"equally many bases, roundings, steps and lows, got \[1, 1, 1, 0\]"),
        ({"bits": [4, 4]}, ValueError, "bits has 2 entries for 1 bases"),
        ({"bits": 9}, ValueError, r"bits\[0\] is 9; allowed: 2 to 8"),
        ({"bits": "4"}, TypeError, "bits must be an int from 2 to 8 or a list"),
        ({"bases": [X.half()]}, TypeError, r"bases\[0\] has dtype torch.float16; .* give bases\[0\].float\(\)"),
        ({"roundings": [X.bfloat16()]}, TypeError, r"roundings\[0\] has dtype torch.bfloat16; weights are trained in"),
        ({"lows": [V.int()]}, TypeError, r"lows\[0\] has dtype torch.int32"),
        ({"steps": [V.double()]}, TypeError, r"steps\[0\] has dtype torch.float64 but bases\[0\] has torch.float32"),
        (TWO, TypeError, r"bases\[1\] has dtype torch.float64 but bases\[0\]"),
        ({"roundings": [X.to("meta")]}, ValueError, r"roundings\[0\] is on meta but bases\[0\] is on cpu"),
        ({"bases": [X[0, 0]]}, ValueError, r"bases\[0\] is a scalar; expected \[out_channels, ...\]"),
        ({"roundings": [X.T]}, ValueError, r"roundings\[0\] has shape \(3, 4\); expected \(4, 3\) for bases\[0\] \(4"),
        ({"steps": [X]}, ValueError, r"steps\[0\] has shape \(4, 3\); expected \(4,\)"),
        ({"beta": 2.0}, TypeError, "beta must be a torch.Tensor"),
        ({"beta": V}, ValueError, r"beta has shape \(4,\); expected a 0-d tensor"),
        ({"beta": V[0].double()}, TypeError, r"beta has dtype torch.float64 but bases\[0\] has torch.float32"),
        ({"beta": V[0] + 0.5}, ValueError, "beta is 0.5; allowed: 1 or more, finite"),
        ({"beta": V[0] + math.inf}, ValueError, "beta is inf; allowed"),
        ({"beta": V[0] + math.nan}, ValueError, "beta is nan; allowed"),
    ],
)
def test_refusals(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        hc.ops.soft_round_weights(**{**GOOD, **change})
