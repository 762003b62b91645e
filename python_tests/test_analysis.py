from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import CLASSES, pictures, tiny
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

import hast_cuda as hc
from hast_cuda.analysis import (
    Hessian,
    NotTwiceDifferentiableError,
    StudentLosses,
    cosine,
    difficulty_histogram,
    error_by_difficulty,
    flat_gradient,
    gradient_cosines,
    hessian_spectrum,
    judge,
    loss_curves,
    twice_differentiable,
)
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.finetune.step import FinetuneStep

LAYERS = ["features.1", "features.4"]


def quantized(bits: int = 4) -> nn.Module:
    return hc.calibrate(hc.quantize(tiny(), bits, bits), [pictures(12)])


def labels(count: int = 12) -> Tensor:
    return torch.arange(count) % CLASSES


def test_bins_by_hand() -> None:
    difficulties = torch.tensor([0.0, 0.2, 0.25, 0.5, 0.74, 1.0])
    histogram = difficulty_histogram(difficulties, 4)
    assert histogram.edges == (0, 0.25, 0.5, 0.75, 1)
    assert histogram.counts == (2, 1, 2, 1)
    assert histogram.fractions == pytest.approx((2 / 6, 1 / 6, 2 / 6, 1 / 6))
    wrong = torch.tensor([False, True, True, False, True, True])
    assert error_by_difficulty(difficulties, wrong, 4).rates == (50, 100, 50, 100)
    assert error_by_difficulty(difficulties[:2], wrong[:2], 2).rates == (50, None)


@pytest.mark.parametrize("bad", [torch.tensor([1.5]), torch.tensor([torch.nan]), torch.empty(0)])
def test_difficulties_refused(bad: Tensor) -> None:
    with pytest.raises(ValueError, match="difficulties"):
        difficulty_histogram(bad)


def test_judge() -> None:
    network, x, y = tiny(), pictures(12), labels()
    found = judge(network, [(x[:5], y[:5]), (x[5:], y[5:])])
    probabilities = network(x).softmax(1)
    torch.testing.assert_close(found.difficulty, 1 - probabilities[torch.arange(12), y].detach())
    assert torch.equal(found.wrong, probabilities.argmax(1) != y)
    with pytest.raises(ValueError, match="labels go from 0 to 99; the network has 5 classes"):
        judge(network, [(x, y.clone().fill_(0).index_fill_(0, torch.tensor([3]), 99))])


def test_cosine_of_known_vectors() -> None:
    assert cosine(torch.tensor([1.0, 0]), torch.tensor([1.0, 1])).item() == pytest.approx(0.5**0.5)
    assert cosine(torch.tensor([1.0, 2]), torch.tensor([-2.0, -4])).item() == pytest.approx(-1)


@pytest.mark.parametrize("alignment", ["relaxed", "direct"])
def test_gradient_cosines_are_those_of_the_losses(alignment: str) -> None:
    teacher, student, x, y = tiny(), quantized(), pictures(12), labels()
    config = FinetuneConfig(alignment=alignment)
    found = gradient_cosines(teacher, student, [(x, y)], config, layers=LAYERS)
    student.requires_grad_(True)
    config = replace(config, label_weight=1.0)
    step = FinetuneStep(teacher.requires_grad_(False), student, LAYERS, config)
    terms = step.losses(x, y, teacher_grad=False)
    kl, fa, ce = (flat_gradient(t, step.parameters, retain_graph=True) for t in terms)
    step.close()
    assert found["alignment_distillation"] == pytest.approx([cosine(fa, kl).item()], abs=1e-5)
    assert found["cross_entropy_distillation"] == pytest.approx([cosine(ce, kl).item()], abs=1e-5)
    # of a student that is trained with labels, the same
    assert gradient_cosines(teacher, student, [(x, y)], config, layers=LAYERS) == found
    with pytest.raises(ValueError, match="batches is empty"):
        gradient_cosines(teacher, student, [], layers=LAYERS)


def quadratic(values: list[float]) -> tuple[Hessian, Tensor]:
    """0.5 x^T A x with the eigenvalues ``values`` in a random basis."""
    spectrum = torch.tensor(values, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64))[0]
    matrix = basis @ torch.diag(spectrum) @ basis.T
    x = torch.randn(len(values), dtype=torch.float64, requires_grad=True)
    return Hessian(lambda: 0.5 * x @ matrix @ x, [x]), matrix


def test_spectrum_of_a_quadratic() -> None:
    values = [-3.0, -1.0, 0.5, 0.75, 1.0, 2.0, 4.0, 10.0]
    hessian, matrix = quadratic(values)
    v = torch.randn(8, dtype=torch.float64)
    torch.testing.assert_close(hessian.product(v), matrix @ v)
    spectrum = hessian_spectrum(hessian, vectors=2, steps=20)
    for nodes, weights in zip(spectrum.nodes, spectrum.weights, strict=True):
        assert nodes == pytest.approx(values, abs=1e-8)
        assert sum(weights) == pytest.approx(1)
    top = hessian_spectrum(hessian, steps=8).largest(2)
    assert [e.value for e in top] == pytest.approx([10.0, 4.0])
    grid, density = spectrum.density(2000, 1e-3)
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1, abs=1e-3)


def test_products_equal_the_dense_hessian() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1])
    hessian = Hessian(lambda: F.cross_entropy(network(x), y), list(network.parameters()))
    flat = torch.nn.utils.parameters_to_vector(network.parameters()).detach()

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([p.numel() for p in network.parameters()])
        named = zip(network.named_parameters(), parts, strict=True)
        state = {n: part.view_as(p) for (n, p), part in named}
        return F.cross_entropy(torch.func.functional_call(network, state, x), y)

    dense = torch.autograd.functional.hessian(loss, flat)
    for _ in range(3):
        v = torch.randn(len(flat), dtype=torch.float64)
        torch.testing.assert_close(hessian.product(v), dense @ v)
    assert hessian_spectrum(hessian).largest()[0].value == pytest.approx(
        float(max(torch.linalg.eigvalsh(dense), key=abs)), rel=1e-6
    )


class SquareOnce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        result: Tensor = 2 * x * grad
        return result


def test_ops_without_a_second_derivative_are_refused() -> None:
    student = quantized().requires_grad_(True)
    with pytest.raises(NotTwiceDifferentiableError, match="no second derivative"):
        Hessian(lambda: student(pictures(12)).square().sum(), list(student.parameters()))
    x = torch.randn(3, requires_grad=True)
    with pytest.raises(NotTwiceDifferentiableError, match="SquareOnce, differentiable once"):
        Hessian(lambda: SquareOnce.apply(x).sum(), [x])


def test_the_twin_is_the_student() -> None:
    student = quantized()
    twin = twice_differentiable(student)
    torch.testing.assert_close(twin(pictures(12)), student(pictures(12)))
    loss = twin.requires_grad_(True)(pictures(12)).square().sum()
    fused = student.requires_grad_(True)(pictures(12)).square().sum()
    found = torch.autograd.grad(loss, list(twin.parameters()))
    expected = torch.autograd.grad(fused, list(student.parameters()))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["cross_entropy", "distillation", "alignment"])
@pytest.mark.parametrize(("label_weight", "alignment"), [(0.0, "direct"), (1.0, "relaxed")])
def test_hessians_of_the_losses(name: str, label_weight: float, alignment: str) -> None:
    config = FinetuneConfig(label_weight=label_weight, alignment=alignment)
    losses = StudentLosses(tiny(), quantized(), pictures(12), labels(), config, layers=LAYERS)
    hessian = Hessian(getattr(losses, name), losses.parameters)
    v, w = (torch.randn(hessian.size) for _ in range(2))
    torch.testing.assert_close(  # symmetric
        v.dot(hessian.product(w)), w.dot(hessian.product(v)), rtol=1e-3, atol=1e-4
    )
    assert hessian.product(v).abs().max() > 0


def test_curves() -> None:
    records = [
        {"phase": "synthesis", "batch": 0, "iteration": 0, "loss": 2.0, "learning_rate": 1.0},
        {"phase": "synthesis", "batch": 1, "iteration": 0, "loss": 4.0},
        {"phase": "test", "iteration": 5, "top1": 50.0},
        {"phase": "test", "iteration": 5, "top1": 60.0},  # the same iteration, after a kill
        {"note": "no figure"},
    ]
    assert loss_curves(records) == {"synthesis": {"loss": [(0, 3.0)]}, "test": {"top1": [(5, 60.0)]}}
