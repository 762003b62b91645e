"""The hard-sample loss against a float64 oracle: clamping, labels, extremes, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from cases import check_close, covering, refused
from conftest import DTYPES
from torch import Tensor

import hast_cuda as hc
from hast_cuda.ops import reference

# Warp and block rows, one class, ragged lengths on both sides of their border, a long row.
SIZES = [(4, 10), (3, 1), (9, 2), (17, 33), (5, 100), (2, 256), (3, 257), (2, 1000), (1, 20000)]
LOGITS = [[2.0, 0, -1], [0, 1, 0.5]]


def inputs(rows: int, classes: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Logits a few units wide, far from 0, and labels."""
    logits = (3 * torch.randn(rows, classes, device=device) + 5).to(dtype)
    return logits, torch.randint(classes, (rows,), device=device)


def evaluate(
    loss_of: Callable[..., tuple[Tensor, Tensor]],
    logits: Tensor,
    labels: Tensor,
    exponent: float,
    detach: bool = False,
    upstream: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, mean difficulty, gradient)."""
    leaf = logits.detach().clone().requires_grad_()
    loss, difficulty = loss_of(leaf, labels, exponent, detach=detach)
    (gradient,) = torch.autograd.grad(upstream * loss, leaf)
    return loss.detach(), difficulty, gradient


@covering(detach=[False, True], exponent=[0.0, 0.5, 1.0, 2.0], size=SIZES, dtype=DTYPES)
def test_against_float64(
    device: torch.device, dtype: torch.dtype, size: tuple[int, int], exponent: float, detach: bool
) -> None:
    logits, labels = inputs(*size, device, dtype)
    found = evaluate(hc.hard_sample_loss, logits, labels, exponent, detach, 10.0)
    eager = evaluate(reference.hard_sample_loss, logits, labels, exponent, detach, 10.0)
    exact = evaluate(reference.hard_sample_loss, logits.double(), labels, exponent, detach, 10.0)
    assert found[0].dtype == found[1].dtype == reference.arithmetic_dtype(dtype)
    assert found[2].dtype == dtype
    for ours, theirs, oracle in zip(found, eager, exact, strict=True):
        check_close(ours, theirs, oracle, 1e-12 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize(
    ("exponent", "detach", "loss", "first", "second"),
    [
        (2.0, False, 0.285324, [-0.00540262, 0.00394963, 0.00145299], [0.0915188, 0.248774, -0.340293]),
        (2.0, True, 0.285324, [-0.00190571, 0.00139319, 0.00051252], [0.0447156, 0.121550, -0.166265]),
        (0.5, False, 0.524762, [-0.0450289, 0.0329188, 0.0121101], [0.0978340, 0.265940, -0.363774]),
        (0.5, True, 0.524762, [-0.0308684, 0.0225667, 0.0083017], [0.077543, 0.210784, -0.288327]),
    ],
)
def test_known_vectors(
    device: torch.device, exponent: float, detach: bool, loss: float, first: list[float], second: list[float]
) -> None:
    logits, labels = torch.tensor(LOGITS, device=device), torch.tensor([0, 2], device=device)
    value, difficulty, gradient = evaluate(hc.hard_sample_loss, logits, labels, exponent, detach)
    assert float(value) == pytest.approx(loss, rel=3e-6)
    assert float(difficulty) == pytest.approx(1 - (0.843795 + 0.307196) / 2, rel=3e-6)
    assert gradient[0].tolist() == pytest.approx(first, rel=2e-5)
    assert gradient[1].tolist() == pytest.approx(second, rel=2e-5)


@pytest.mark.parametrize("size", [(9, 10), (4, 300)])
def test_exponent_zero_is_cross_entropy(device: torch.device, size: tuple[int, int]) -> None:
    logits, labels = inputs(*size, device, torch.float32)
    leaf = logits.clone().requires_grad_()
    expected = F.cross_entropy(leaf, labels)
    loss, _, gradient = evaluate(hc.hard_sample_loss, logits, labels, 0.0)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, leaf)[0], rtol=1e-5, atol=1e-8)


@covering(
    exponent=[0.0, 0.1, 0.5, 1.0, 2.0, 50.0],
    margin=[-1e30, -100.0, -17.0, 13.0, 14.0, 17.0, 100.0, 1e30],
    classes=[3, 300],
)
def test_finite_where_probability_saturates(device: torch.device, exponent: float, margin: float, classes: int) -> None:
    logits = torch.zeros(2, classes, device=device)
    logits[:, 0] = margin
    labels = torch.zeros(2, dtype=torch.int64, device=device)
    found = evaluate(hc.hard_sample_loss, logits, labels, exponent)
    exact = evaluate(reference.hard_sample_loss, logits.double(), labels, exponent)
    for ours, oracle in zip(found, exact, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours.double(), oracle, rtol=1e-5, atol=1e-12)


def test_gradient_of_the_difficulty_ends_at_the_clamp(device: torch.device) -> None:
    # p_y is 1 - 1.1e-6 and 1 - 0.9e-6: only the first is below 1 - 1e-6.
    logits = torch.tensor([[-math.log(1.1e-6), 0.0], [-math.log(0.9e-6), 0.0]], device=device)
    labels = torch.zeros(2, dtype=torch.int64, device=device)
    whole = evaluate(hc.hard_sample_loss, logits.double(), labels, 0.5)[2]
    constant = evaluate(hc.hard_sample_loss, logits.double(), labels, 0.5, True)[2]
    assert not torch.allclose(whole[0], constant[0], rtol=0.1, atol=0)
    assert torch.equal(whole[1], constant[1])


@pytest.mark.parametrize("size", [(3, 7), (2, 300)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_shows(device: torch.device, size: tuple[int, int], value: float) -> None:
    logits, labels = inputs(*size, device, torch.float32)
    logits[1, 3] = value
    loss, difficulty, _ = evaluate(hc.hard_sample_loss, logits, labels, 2.0)
    assert loss.isnan()
    assert difficulty.isnan()


@pytest.mark.parametrize("size", [(4, 7), (4, 300)])
@pytest.mark.parametrize("wrong", [-1, 300, -(2**62), 2**62])
def test_a_label_that_is_no_class_is_never_read(device: torch.device, size: tuple[int, int], wrong: int) -> None:
    """What CUDA does, where the labels are not checked: the op below the check."""
    logits, labels = inputs(*size, device, torch.float32)
    op = torch.ops.hast_cuda.hard_sample_loss.default
    right = op(logits, labels, 2.0, False, True)[2]
    labels[1] = wrong
    loss, difficulty, gradient = op(logits, labels, 2.0, False, True)
    assert loss.isnan()
    assert difficulty.isnan()
    assert gradient[1].isnan().all()
    assert torch.equal(gradient[[0, 2, 3]], right[[0, 2, 3]])


@pytest.mark.parametrize("size", [(300, 10), (40, 300)])
def test_same_bits_twice(device: torch.device, size: tuple[int, int]) -> None:
    logits, labels = inputs(*size, device, torch.float32)
    first, second = (evaluate(hc.hard_sample_loss, logits, labels, 2.0) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_not_contiguous_and_unaligned(device: torch.device) -> None:
    logits, labels = inputs(12, 41, device, torch.float32)
    buffer = torch.randn(4 * 300 + 1, device=device)
    for x, y in (
        (logits[:, 1:20], labels % 19),
        (logits[::2], labels[::2]),
        (logits[:, :12].T, labels % 12),
        (buffer[1:].view(4, 300), labels[:4]),
    ):
        found = evaluate(hc.hard_sample_loss, x, y, 2.0)
        plain = evaluate(hc.hard_sample_loss, x.clone().contiguous(), y.clone(), 2.0)
        assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))


def test_difficulty_has_no_gradient_and_evaluation_needs_none(device: torch.device) -> None:
    logits, labels = inputs(3, 5, device, torch.float32)
    loss, difficulty = hc.hard_sample_loss(logits.clone().requires_grad_(), labels, 2.0)
    assert loss.requires_grad
    assert not difficulty.requires_grad
    plain = hc.hard_sample_loss(logits, labels, 2.0)
    assert torch.equal(plain[0], loss.detach())
    assert torch.equal(plain[1], difficulty)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("classes", [6, 300])
def test_gradcheck(device: torch.device, exponent: float, classes: int) -> None:
    logits = torch.randn(3, classes, device=device, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 5, 2], device=device)
    assert torch.autograd.gradcheck(
        lambda x: hc.hard_sample_loss(x, labels, exponent)[0], logits, fast_mode=classes > 6
    )


def test_second_derivatives_are_refused(device: torch.device) -> None:
    logits, labels = inputs(3, 5, device, torch.float32)
    leaf = logits.requires_grad_()
    loss, _ = hc.hard_sample_loss(leaf, labels, 2.0)
    (gradient,) = torch.autograd.grad(loss.square(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        gradient.sum().backward()


@pytest.mark.parametrize("needed", [True, False])
def test_opcheck(device: torch.device, needed: bool) -> None:
    op = torch.ops.hast_cuda.hard_sample_loss.default
    torch.library.opcheck(op, (*inputs(3, 10, device, torch.float16), 2.0, False, needed))


def test_compiles_without_a_break(device: torch.device) -> None:
    logits, labels = inputs(3, 10, device, torch.bfloat16)
    compiled = torch.compile(hc.hard_sample_loss, fullgraph=True, backend="aot_eager")
    found, plain = (evaluate(f, logits, labels, 2.0) for f in (compiled, hc.hard_sample_loss))
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))


X, Y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])


test_refusals = refused(
    (lambda: hc.hard_sample_loss([1.0], Y, 2.0), TypeError, "logits must be a torch.Tensor"),
    (lambda: hc.hard_sample_loss(X.long(), Y, 2.0), TypeError, "logits has dtype torch.int64"),
    (lambda: hc.hard_sample_loss(X[0], Y, 2.0), ValueError, r"logits has shape \(3,\); expec"),
    (lambda: hc.hard_sample_loss(X[:0], Y[:0], 2.0), ValueError, "not empty"),
    (lambda: hc.hard_sample_loss(X, [0], 2.0), TypeError, "labels must be a torch.Tensor, got"),
    (lambda: hc.hard_sample_loss(X, Y.int(), 2.0), TypeError, "labels has dtype torch.int32; "),
    (lambda: hc.hard_sample_loss(X, Y[:3], 2.0), ValueError, r"\(3,\); expected \[4\]"),
    (lambda: hc.hard_sample_loss(X, Y.to("meta"), 2.0), ValueError, "labels is on meta but lo"),
    (lambda: hc.hard_sample_loss(X, Y + 1, 2.0), ValueError, r"labels\[2\] is 3; allowed: 0 t"),
    (lambda: hc.hard_sample_loss(X, Y - 1, 2.0), ValueError, r"labels\[0\] is -1; allowed: 0"),
    (lambda: hc.hard_sample_loss(X, Y, -0.5), ValueError, "exponent is -0.5; allowed: 0 or mo"),
    (lambda: hc.hard_sample_loss(X, Y, math.nan), ValueError, "exponent is nan"),
)
