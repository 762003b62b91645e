"""Losses at the edge: large logits, probabilities of 1, dead and huge attention vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import hast_cuda as hc
from hast_cuda.ops import attention_energy_loss, reference
from hast_cuda.synthesis.intra_class import margin_loss
from hast_cuda.synthesis.objective import soft_label_loss

CLASSES = [2, 1000]
LARGEST = {torch.float16: 6e4, torch.bfloat16: 1e38, torch.float32: 1e38, torch.float64: 1e300}


def differentiated(
    loss_of: Callable[..., Any], tensors: Sequence[Tensor], *rest: Any, **options: Any
) -> tuple[Tensor, list[Tensor]]:
    """The loss, and its gradient to every one of ``tensors``."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    loss = loss_of(*leaves, *rest, **options)
    loss = loss[0] if isinstance(loss, tuple) else loss
    return loss.detach(), list(torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("dtype", list(LARGEST))
def test_divergence_of_large_logits(device: torch.device, dtype: torch.dtype, classes: int) -> None:
    largest = LARGEST[dtype]
    teacher = torch.zeros(3, classes, device=device, dtype=torch.float64)
    teacher[:, 0] = largest
    teacher[2, 1] = largest  # two classes share the first place
    student = -teacher.roll(1, 1) + 0.25 * teacher
    teacher, student = teacher.to(dtype), student.to(dtype)
    loss, found = differentiated(hc.distillation_loss, (teacher, student), 20.0)
    exact, gradients = differentiated(reference.distillation_loss, (teacher.double(), student.double()), 20.0)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=0)
    assert bool(loss.isfinite())
    tolerance = max(1e-5, 2 * torch.finfo(dtype).eps)
    for ours, oracle in zip(found, gradients, strict=True):
        assert bool(ours.isfinite().all())
        # The teacher's gradient has the size of the logits' gaps.
        torch.testing.assert_close(
            ours.double(), oracle, rtol=tolerance, atol=tolerance * (1 + float(oracle.abs().max()))
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_equal_logits_have_no_divergence(device: torch.device, dtype: torch.dtype) -> None:
    logits = (LARGEST[dtype] * torch.linspace(-1, 1, 30, device=device).view(3, 10)).to(dtype)
    loss, gradients = differentiated(hc.distillation_loss, (logits, logits), 20.0)
    assert float(loss) == 0
    assert all(not g.any() for g in gradients)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 30.0, 1e30])
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_gradient_at_a_probability_of_one(
    device: torch.device, dtype: torch.dtype, classes: int, exponent: float
) -> None:
    """(1 - p)^0.5 has an infinite slope at p = 1; the documented rule clamps p before that."""
    logits = torch.zeros(3, classes, device=device)
    logits[0, 1], logits[1, 1], logits[2, 0] = 40.0, 5e4, 5e4  # p = 1, 1 and 0
    labels = torch.ones(3, dtype=torch.int64, device=device)
    logits = logits.to(dtype)
    loss, (gradient,) = differentiated(hc.hard_sample_loss, [logits], labels, exponent)
    exact, (oracle,) = differentiated(reference.hard_sample_loss, [logits.double()], labels, exponent)
    assert bool(loss.isfinite())
    assert bool(gradient.isfinite().all())
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-12)
    storage = torch.finfo(dtype).eps if dtype == torch.float16 else 0.0
    torch.testing.assert_close(gradient.double(), oracle, rtol=1e-5 + storage, atol=1e-7)


def test_an_exponent_beyond_float32_is_refused() -> None:
    logits, labels = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    for exponent in (1e39, float("inf"), float("nan"), -1.0):
        with pytest.raises(ValueError, match=r"exponent is .*; allowed: 0 or more, finite in flo"):
            hc.hard_sample_loss(logits, labels, exponent)


def energies(device: torch.device, size: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Attention vectors [3, 5] of that size."""
    random = torch.Generator().manual_seed(3)
    first, second = torch.rand(2, 3, 5, generator=random, dtype=torch.float64) * size
    return first.to(device, dtype), second.to(device, dtype)


@pytest.mark.parametrize("size", [1e-37, 1e-20, 1e-12, 1.0, 1e18, 1e20, 1e30, 1e37])
def test_normalised_attention_of_any_size(device: torch.device, size: float) -> None:
    """Squares of float32 energies overflow from 2e19 on; their normalised vectors do not."""
    teacher, student = energies(device, size, torch.float32)

    def loss_of(t: Tensor, s: Tensor) -> Tensor:
        return attention_energy_loss([t], [s], [16])

    def eager(t: Tensor, s: Tensor) -> Tensor:
        return reference.energy_loss([t], [s], [16])

    exact, gradients = differentiated(eager, (teacher.double(), student.double()))
    for ours in (loss_of, eager):
        loss, found = differentiated(ours, (teacher, student))
        torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-45)
        for gradient, oracle in zip(found, gradients, strict=True):
            smallest = torch.finfo(torch.float32).tiny
            bound = 1e-5 * float(oracle.abs().max()) + smallest
            torch.testing.assert_close(gradient.double(), oracle, rtol=0, atol=bound)


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("dead", ["both", "teacher", "student", "one sample"])
def test_dead_maps_have_an_attention_loss(device: torch.device, dead: str, normalized: bool) -> None:
    teacher, student = torch.randn(2, 3, 4, 5, 5, device=device)
    for name, maps in (("teacher", teacher), ("student", student)):
        if dead in ("both", name):
            maps.zero_()
    if dead == "one sample":
        teacher[1] = student[1] = 0
    loss, found = differentiated(lambda t, s: hc.attention_loss([t], [s], normalized=normalized), (teacher, student))
    exact, gradients = differentiated(
        lambda t, s: reference.attention_loss([t], [s], normalized=normalized), (teacher.double(), student.double())
    )
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-12)
    for ours, oracle in zip(found, gradients, strict=True):
        assert bool(ours.isfinite().all())
        # A dead map has no direction: its gradient is that of the energies times 0.
        torch.testing.assert_close(ours.double(), oracle, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("reduction", ["mse", "norm", "relative"])
@pytest.mark.parametrize("gap", [1e-30, 1.0, 1e15, 1e18])
def test_statistics_far_apart_have_a_loss(device: torch.device, gap: float, reduction: str) -> None:
    running = torch.tensor([0.0, 1.0, 5.0], device=device)
    values = [running + gap, running - gap]
    rest = [[running], [running]]

    def loss_of(mean: Tensor, var: Tensor) -> Tensor:
        return hc.match_loss([mean], [var], *rest, reduction=reduction)

    def exact_of(mean: Tensor, var: Tensor) -> Tensor:
        wide = [[t.double() for t in group] for group in rest]
        return reference.match_loss([mean], [var], *wide, reduction=reduction)

    loss, found = differentiated(loss_of, values)
    exact, gradients = differentiated(exact_of, [v.double() for v in values])
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=1e-37)
    for ours, oracle in zip(found, gradients, strict=True):
        torch.testing.assert_close(ours.double(), oracle.nan_to_num(0.0), rtol=1e-6, atol=1e-37)


def test_a_loss_beyond_float32_is_infinite_as_in_eager(device: torch.device) -> None:
    mean, zero = torch.full((2,), 1e25, device=device), torch.zeros(2, device=device)
    assert float(hc.match_loss([mean], [zero], [zero], [zero])) == float("inf")
    assert float(reference.match_loss([mean], [zero], [zero], [zero])) == float("inf")
    maps = torch.full((1, 2, 3, 3), 1e20, device=device)
    assert hc.channel_attention(maps).isinf().all()
    assert reference.channel_attention(maps).isinf().all()


@pytest.mark.parametrize("classes", CLASSES)
def test_soft_targets_of_saturated_logits(classes: int) -> None:
    logits = torch.zeros(2, classes)
    logits[0, 1], logits[1, 0] = 1e30, 1e30
    labels, targets = torch.ones(2, dtype=torch.int64), torch.tensor([1.0, 0.5])
    loss, (gradient,) = differentiated(soft_label_loss, [logits], labels, targets)
    assert float(loss) == pytest.approx(0.125)
    assert not gradient.any()


def test_dead_features_have_a_distance() -> None:
    """A feature of nothing but zeros has the cosine distance 1 to everything, and a gradient."""
    features, references = torch.zeros(2, 4), torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]])
    loss, (gradient,) = differentiated(margin_loss, [features], references, torch.ones(2), (0.0, 0.4))
    assert float(loss) == pytest.approx(0.6)
    assert bool(gradient.isfinite().all())
