"""Distillation against a float64 oracle: loss, both gradients, extremes, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from cases import check_close, covering, refused
from conftest import DTYPES
from torch import Tensor

import hast_cuda as hc
from hast_cuda.ops import reference

# Warp and block rows, one class, ragged lengths on both sides of their border, a long row.
SIZES = [(4, 10), (3, 1), (9, 2), (17, 33), (5, 100), (2, 256), (3, 257), (2, 1000), (1, 20000)]


def logits(rows: int, classes: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Logits as a network gives them: a few units wide, far from 0."""
    return (3 * torch.randn(rows, classes, device=device) + 5).to(dtype)


def evaluate(
    loss_of: Callable[[Tensor, Tensor, float], Tensor],
    teacher: Tensor,
    student: Tensor,
    temperature: float,
    upstream: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, teacher's gradient, student's gradient)."""
    leaves = [x.detach().clone().requires_grad_() for x in (teacher, student)]
    loss = loss_of(*leaves, temperature)
    first, second = torch.autograd.grad(upstream * loss, leaves)
    return loss.detach(), first, second


@covering(temperature=[1.0, 20.0, 0.3], size=SIZES, dtype=DTYPES)
def test_against_float64(device: torch.device, dtype: torch.dtype, size: tuple[int, int], temperature: float) -> None:
    teacher, student = (logits(*size, device, dtype) for _ in range(2))
    # An upstream as in fine-tuning: without it half-precision gradients would vanish.
    upstream = 20 * temperature**2
    found = evaluate(hc.distillation_loss, teacher, student, temperature, upstream)
    eager = evaluate(reference.distillation_loss, teacher, student, temperature, upstream)
    exact = evaluate(reference.distillation_loss, teacher.double(), student.double(), temperature, upstream)
    assert found[0].dtype == reference.arithmetic_dtype(dtype)
    assert found[1].dtype == found[2].dtype == dtype
    for ours, theirs, oracle in zip(found, eager, exact, strict=True):
        check_close(ours, theirs, oracle, 1e-12 if dtype == torch.float64 else 1e-6)


def test_known_vector(device: torch.device) -> None:
    teacher = torch.tensor([[2.0, 0, -1]], device=device)
    student = torch.tensor([[1.0, 1, 0]], device=device)
    loss = hc.distillation_loss(teacher, student, 20.0)
    # Exponentials near 1 are rounded by 6e-8: that much of the loss is noise in float32.
    assert float(loss) == pytest.approx(1.143157e-3, abs=1e-7)
    assert 8000 * float(loss) == pytest.approx(9.14526, rel=1e-4)
    assert 400 / 3 * float(loss) == pytest.approx(0.152421, rel=1e-4)
    exact = hc.distillation_loss(teacher.double(), student.double(), 20.0)
    assert float(exact) == pytest.approx(1.14320562071e-3, rel=1e-10)


@pytest.mark.parametrize("size", [(5, 12), (3, 300)])
def test_the_same_network_twice(device: torch.device, size: tuple[int, int]) -> None:
    same = logits(*size, device, torch.float32)
    loss, *gradients = evaluate(hc.distillation_loss, same, same, 2.0)
    assert abs(float(loss)) < 1e-7
    assert all(float(g.abs().max()) < 1e-8 for g in gradients)


@pytest.mark.parametrize("size", [(4, 10), (2, 300)])
@pytest.mark.parametrize("margin", [30.0, 100.0, 1e4, 1e30])
def test_saturated_logits_stay_finite(device: torch.device, size: tuple[int, int], margin: float) -> None:
    teacher, student = (torch.zeros(size, device=device) for _ in range(2))
    teacher[:, 0], student[:, 1] = margin, margin
    found = evaluate(hc.distillation_loss, teacher, student, 1.0)
    exact = evaluate(reference.distillation_loss, teacher.double(), student.double(), 1.0)
    for ours, oracle in zip(found, exact, strict=True):
        torch.testing.assert_close(ours.double(), oracle, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("size", [(3, 7), (2, 300)])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_not_finite_shows(device: torch.device, size: tuple[int, int], value: float, side: int) -> None:
    pair = [logits(*size, device, torch.float32) for _ in range(2)]
    pair[side][1, 3] = value
    found = hc.distillation_loss(pair[0], pair[1], 2.0)
    expected = reference.distillation_loss(pair[0], pair[1], 2.0)
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert not found.isfinite()


@pytest.mark.parametrize("size", [(300, 10), (40, 300)])
def test_same_bits_twice(device: torch.device, size: tuple[int, int]) -> None:
    teacher, student = (logits(*size, device, torch.float32) for _ in range(2))
    first, second = (evaluate(hc.distillation_loss, teacher, student, 4.0) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    teacher, student = (logits(256, 300, torch.device("cpu"), torch.float32) for _ in range(2))
    threads, found = torch.get_num_threads(), []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        found.append(evaluate(hc.distillation_loss, teacher, student, 4.0))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_not_contiguous_and_unaligned(device: torch.device) -> None:
    wide = torch.randn(6, 41, device=device)
    views = [wide[:, 1:20], wide[:, 20:39]]
    for pair in (views, [v[::2] for v in views], [v.T for v in views]):
        found = evaluate(hc.distillation_loss, pair[0], pair[1], 2.0)
        plain = evaluate(hc.distillation_loss, pair[0].contiguous(), pair[1].contiguous(), 2.0)
        assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))
    buffer = torch.randn(2, 4 * 300 + 1, device=device)
    odd = [b[1:].view(4, 300) for b in buffer]
    found = evaluate(hc.distillation_loss, odd[0], odd[1], 2.0)
    plain = evaluate(hc.distillation_loss, odd[0].clone(), odd[1].clone(), 2.0)
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))


@pytest.mark.parametrize("classes", [10, 300])
def test_gradients_only_where_they_are_needed(device: torch.device, classes: int) -> None:
    teacher, student = (logits(3, classes, device, torch.float32) for _ in range(2))
    loss, d_teacher, d_student = evaluate(hc.distillation_loss, teacher, student, 3.0)
    assert torch.equal(hc.distillation_loss(teacher, student, 3.0), loss)
    for index, expected in enumerate((d_teacher, d_student)):
        pair = [teacher.clone(), student.clone()]
        pair[index].requires_grad_()
        one = hc.distillation_loss(pair[0], pair[1], 3.0)
        one.backward()
        assert torch.equal(one.detach(), loss)
        torch.testing.assert_close(pair[index].grad, expected, rtol=1e-5, atol=1e-9)
        assert pair[1 - index].grad is None


def test_half_precision_gradients_are_scaled_before_they_are_rounded(device: torch.device) -> None:
    teacher, student = (logits(256, 10, device, torch.float16) for _ in range(2))
    _, _, found = evaluate(hc.distillation_loss, teacher, student, 20.0, 8000.0)
    exact = evaluate(reference.distillation_loss, teacher.double(), student.double(), 20.0, 8000.0)[2]
    torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=1e-7)


def test_mixed_precision_is_float32(device: torch.device) -> None:
    teacher, student = (logits(3, 10, device, torch.float32) for _ in range(2))
    half = student.bfloat16().requires_grad_()
    loss = hc.distillation_loss(teacher, half, 2.0)
    assert torch.equal(loss.detach(), hc.distillation_loss(teacher, half.detach().float(), 2.0))
    loss.backward()
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("classes", [6, 300])
def test_gradcheck(device: torch.device, classes: int) -> None:
    pair = [torch.randn(2, classes, device=device, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda t, s: hc.distillation_loss(t, s, 1.5), pair, fast_mode=classes > 6)


def test_second_derivatives_are_refused(device: torch.device) -> None:
    student = torch.randn(2, 3, device=device, requires_grad=True)
    loss = hc.distillation_loss(torch.randn(2, 3, device=device), student, 2.0)
    (gradient,) = torch.autograd.grad(loss.square(), student, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        gradient.sum().backward()


@pytest.mark.parametrize("needed", [(True, True), (True, False), (False, True), (False, False)])
def test_opcheck(device: torch.device, needed: tuple[bool, bool]) -> None:
    teacher, student = (logits(3, 10, device, torch.bfloat16) for _ in range(2))
    op = torch.ops.hast_cuda.distillation_loss.default
    torch.library.opcheck(op, (teacher, student, 4.0, *needed))


def test_compiles_without_a_break(device: torch.device) -> None:
    teacher, student = (logits(3, 10, device, torch.float16) for _ in range(2))
    compiled = torch.compile(hc.distillation_loss, fullgraph=True, backend="aot_eager")
    found, plain = (evaluate(f, teacher, student, 2.0) for f in (compiled, hc.distillation_loss))
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))


X = torch.randn(4, 3)


test_refusals = refused(
    (lambda: hc.distillation_loss([1.0], X, 1.0), TypeError, "teacher must be a torch.Tensor"),
    (lambda: hc.distillation_loss(X.long(), X, 1.0), TypeError, "teacher has dtype torch.int6"),
    (lambda: hc.distillation_loss(X, X.long(), 1.0), TypeError, "student has dtype torch.int6"),
    (lambda: hc.distillation_loss(X[0], X, 1.0), ValueError, r"teacher has shape \(3,\); exp"),
    (lambda: hc.distillation_loss(X, X[:0], 1.0), ValueError, r"student has .* not empty"),
    (lambda: hc.distillation_loss(X, X[:2], 1.0), ValueError, r"\(4, 3\) and student \(2, 3\)"),
    (lambda: hc.distillation_loss(X, X.to("meta"), 1.0), ValueError, "student is on meta but"),
    (lambda: hc.distillation_loss(X, X.double(), 1.0), ValueError, "student torch.float64; co"),
    (lambda: hc.distillation_loss(X, X, 0.0), ValueError, "temperature is 0.0; it must be greater"),
    (lambda: hc.distillation_loss(X, X, math.inf), ValueError, "temperature is inf"),
)
