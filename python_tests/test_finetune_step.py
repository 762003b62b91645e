from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import CHANNELS, SIZE, outputs_of, same_state, snapshot, tiny
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.finetune.step import Step

LAYERS = ["features.1", "features.4"]
CONFIG = FinetuneConfig(learning_rate=1e-5, weight_decay=0.0, perturbation=0.05)


def pictures(device: torch.device) -> Tensor:
    random = torch.Generator().manual_seed(5)
    return torch.randn(8, CHANNELS, SIZE, SIZE, generator=random).to(device)


def pair(device: torch.device) -> tuple[nn.Module, nn.Module]:
    teacher = tiny(device).requires_grad_(False)
    return teacher, hc.calibrate(hc.quantize(tiny(device), 3, 3), [pictures(device)])


class Recorder(Step):
    """Notes the images whose losses were asked for."""

    seen: list[Tensor]

    def losses(
        self, x: Tensor, labels: Tensor | None = None, *, teacher_grad: bool
    ) -> tuple[Tensor, ...]:
        self.seen = [*getattr(self, "seen", []), x.detach().clone()]
        return super().losses(x, labels, teacher_grad=teacher_grad)


def by_hand(
    teacher: nn.Module, student: nn.Module, x: Tensor, config: FinetuneConfig
) -> list[Tensor]:
    """Eq. 12 in two separate passes, with torch's own operators; gradients of the parameters."""

    def loss(x: Tensor) -> Tensor:
        (t, maps), (s, others) = (outputs_of(n, LAYERS, x) for n in (teacher, student))
        t, s = t / config.temperature, s / config.temperature
        kl = (t.softmax(1) * (t.log_softmax(1) - s.log_softmax(1))).sum(1).mean()
        total = config.distillation_weight * config.temperature**2 * kl
        for a, b in zip(maps, others, strict=True):
            vectors = [F.normalize(f.square().mean((2, 3)), dim=1) for f in (a, b)]
            total = total + config.feature_weight * F.mse_loss(vectors[0], vectors[1])
        return total

    x = x.clone().requires_grad_()
    clean = loss(x)
    (towards,) = torch.autograd.grad(clean, x, retain_graph=True)
    total = config.clean_weight * clean
    if config.perturbation:
        harder = (x + config.perturbation * towards.sign()).detach()
        total = total + config.perturbed_weight * loss(harder)
    return list(torch.autograd.grad(total, list(student.parameters())))


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"clean_weight": 1.0, "perturbed_weight": 3.0},
        {"clean_weight": 0.0},
        {"perturbed_weight": 0.0},
        {"perturbation": 0.0},
        {"feature_weight": 0.0},
        {"clean_weight": 0.3, "distillation_weight": 2.0, "temperature": 5.0},
    ],
)
def test_gradients_equal_two_separate_passes(device: torch.device, changed: dict[str, Any]) -> None:
    teacher, student = pair(device)
    teacher, student = teacher.double(), student.double()
    x, config = pictures(device).double(), replace(CONFIG, **changed)
    expected = by_hand(teacher, copy.deepcopy(student), x, config)
    Step(teacher, student, LAYERS, config)(x)
    for (name, parameter), gradient in zip(student.named_parameters(), expected, strict=True):
        assert parameter.grad is not None
        scale = gradient.abs().max().item()
        assert scale > 0, name
        torch.testing.assert_close(
            parameter.grad, gradient, rtol=1e-4, atol=1e-4 * scale, msg=lambda m, n=name: n + m
        )


def test_perturbation_is_one_signed_step(device: torch.device) -> None:
    x = pictures(device)
    step = Recorder(*pair(device), LAYERS, CONFIG)
    step(x)
    clean, harder = step.seen
    assert torch.equal(clean, x)
    gap = (harder.double() - clean.double()).abs()
    torch.testing.assert_close(gap, torch.full_like(gap, CONFIG.perturbation), rtol=0, atol=1e-6)


def test_perturbation_raises_the_loss(device: torch.device) -> None:
    step = Recorder(*pair(device), [], replace(CONFIG, feature_weight=0.0))
    step.optimizer.param_groups[0]["lr"] = 0.0
    step(pictures(device))
    with torch.no_grad():
        clean, harder = (sum(step.losses(x, teacher_grad=False)).item() for x in step.seen[:2])
    assert harder > clean


def test_pixels_without_a_gradient_stay(device: torch.device) -> None:
    teacher, student = pair(device)
    for network in (teacher, student):
        network.get_submodule("features.0").weight.data[:, 1] = 0
    step = Recorder(teacher, student, LAYERS, CONFIG)
    step(pictures(device))
    clean, harder = step.seen
    assert torch.equal(clean[:, 1], harder[:, 1])
    assert (clean[:, 0] != harder[:, 0]).all()


@pytest.mark.parametrize("changed", [{"perturbation": 0.0}, {"perturbed_weight": 0.0}])
def test_without_a_perturbation_there_is_one_forward(
    device: torch.device, changed: dict[str, Any]
) -> None:
    step = Recorder(*pair(device), LAYERS, replace(CONFIG, **changed))
    step(pictures(device))
    assert len(step.seen) == 1


def test_returns_the_two_terms_of_the_clean_loss(device: torch.device) -> None:
    x, step = pictures(device), Step(*pair(device), LAYERS, CONFIG)
    with torch.no_grad():
        expected = step.losses(x, teacher_grad=False)
    distillation, alignment = step(x)
    torch.testing.assert_close((distillation, alignment), expected)
    assert not distillation.requires_grad
    assert alignment > 0


def test_feature_weight_zero_taps_nothing(device: torch.device) -> None:
    teacher, student = pair(device)
    step = Step(teacher, student, LAYERS, replace(CONFIG, feature_weight=0.0))
    assert not any(m._forward_hooks for n in (teacher, student) for m in n.modules())
    assert step(pictures(device))[1] == 0


def test_update_is_nesterov_sgd(device: torch.device) -> None:
    teacher, student = pair(device)
    config = replace(CONFIG, learning_rate=1e-4, weight_decay=0.1)
    step = Step(teacher, student, LAYERS, config)
    theirs = [p.detach().clone().requires_grad_() for p in student.parameters()]
    sgd = torch.optim.SGD(theirs, lr=1e-4, momentum=0.9, nesterov=True, weight_decay=0.1)
    for _ in range(3):
        step(pictures(device))
        for mine, their in zip(student.parameters(), theirs, strict=True):
            assert mine.grad is not None
            their.grad = mine.grad.clone()
        sgd.step()
    for mine, their in zip(student.parameters(), theirs, strict=True):
        torch.testing.assert_close(mine, their)


def test_adamw_moves_every_parameter_by_its_own_scale(device: torch.device) -> None:
    """Bias-corrected means, by hand: Adam's update with weight decay apart from the gradient."""
    teacher, student = pair(device)
    config = replace(CONFIG, optimizer="adamw", learning_rate=1e-3, weight_decay=0.1)
    step = Step(teacher, student, LAYERS, config)
    values = [p.detach().clone() for p in student.parameters()]
    means = [torch.zeros_like(v) for v in values]
    squares = [torch.zeros_like(v) for v in values]
    for t in range(1, 4):
        step.set_rates(1e-3 / t)
        step(pictures(device))
        for v, m, s, p in zip(values, means, squares, student.parameters(), strict=True):
            assert p.grad is not None
            m.mul_(0.9).add_(p.grad, alpha=0.1)
            s.mul_(0.999).add_(p.grad.square(), alpha=0.001)
            v.mul_(1 - 1e-3 / t * 0.1)
            v.sub_(1e-3 / t * (m / (1 - 0.9**t)) / ((s / (1 - 0.999**t)).sqrt() + 1e-8))
    for p, v in zip(student.parameters(), values, strict=True):
        torch.testing.assert_close(p, v)


def test_gradient_is_clipped_on_request(device: torch.device) -> None:
    norms = []
    for limit in (0.0, 0.25):
        teacher, student = pair(device)
        Step(teacher, student, LAYERS, replace(CONFIG, max_grad_norm=limit))(pictures(device))
        norms.append(torch.stack([p.grad.norm() for p in student.parameters()]).norm().item())
    assert norms[0] > 1
    assert norms[1] == pytest.approx(0.25, rel=1e-3)


def test_closing_removes_the_hooks_and_keeps_the_networks(device: torch.device) -> None:
    teacher, student = pair(device)
    before = snapshot(teacher)
    step = Step(teacher, student, LAYERS, CONFIG)
    step(pictures(device))
    step.close()
    assert same_state(teacher, before)
    assert not any(m._forward_hooks for n in (teacher, student) for m in n.modules())
