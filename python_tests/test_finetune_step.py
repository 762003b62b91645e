from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import CLASSES, outputs_of, pictures, same_state, snapshot, tiny
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.finetune.step import FinetuneStep
from hast_cuda.loops.execution import Execution
from hast_cuda.networks.ends import Head
from hast_cuda.posttraining import equalize_activations

LAYERS, FEATURE = ["features.1", "features.4"], "features.5"
CONFIG = FinetuneConfig(learning_rate=1e-5, weight_decay=0.0, perturbation=0.05)


def pair(device: torch.device) -> tuple[nn.Module, nn.Module]:
    teacher = tiny(device).requires_grad_(False)
    return teacher, hc.calibrate(hc.quantize(tiny(device), 3, 3), [pictures(8, device)])


class Recorder(FinetuneStep):
    """Notes the images whose losses were asked for, and what is to be differentiated."""

    def losses(self, x: Tensor, labels: Tensor | None = None, *, teacher_grad: bool) -> tuple[Tensor, ...]:
        self.seen = [*getattr(self, "seen", []), x.detach().clone()]
        self.asked = x.requires_grad, teacher_grad
        return super().losses(x, labels, teacher_grad=teacher_grad)


def grad_cam(network: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """Of each image's class, by a second backward pass."""
    maps: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        maps.append(output if output.requires_grad else output.requires_grad_())

    hook = network.get_submodule(FEATURE).register_forward_hook(keep)
    logits = network(x)
    hook.remove()
    (alphas,) = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), maps, create_graph=True)
    return (alphas.mean((2, 3), keepdim=True) * maps[0]).sum(1).relu()


def by_hand(
    teacher: nn.Module, student: nn.Module, x: Tensor, labels: Tensor, config: FinetuneConfig
) -> tuple[Tensor, list[Tensor]]:
    """Eq. 10 and 12 in two separate passes of torch's operators: harder images, gradients."""

    def losses(x: Tensor) -> list[Tensor]:
        (target, maps), (logits, others) = (outputs_of(n, LAYERS, x) for n in (teacher, student))
        t, s = target / config.temperature, logits / config.temperature
        kl = (t.softmax(1) * (t.log_softmax(1) - s.log_softmax(1))).sum(1).mean()
        if config.alignment == "cam":
            cams = [grad_cam(n, x, labels) for n in (teacher, student)]
            alignment, maps, others = F.mse_loss(*cams), [], []
        else:
            alignment = torch.zeros_like(kl)
        for a, b in zip(maps, others, strict=True):
            pair = [a, b]
            if config.alignment == "relaxed":
                pair = [F.normalize(f.square().mean((2, 3)), dim=1) for f in pair]
            alignment = alignment + F.mse_loss(*pair)
        easy = 1 - target.detach().softmax(1)[range(len(x)), labels] < config.label_difficulty
        return [
            config.distillation_weight * config.temperature**2 * kl,
            config.feature_weight * alignment,
            config.label_weight * (easy * F.cross_entropy(logits, labels, reduction="none")).mean(),
        ]

    x = x.clone().requires_grad_()
    clean = losses(x)
    by = {"distillation": clean[:1], "alignment": clean[1:2], "both": clean}[config.perturb_by]
    (towards,) = torch.autograd.grad(sum(by), x, retain_graph=True)
    harder = (x + config.perturbation * towards.sign()).detach()
    total = config.clean_weight * sum(clean)
    if config.perturbation:
        total = total + config.perturbed_weight * sum(losses(harder))
    return harder, list(torch.autograd.grad(total, list(student.parameters())))


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"perturbed_weight": 3.0},
        {"clean_weight": 0.0},
        {"perturbed_weight": 0.0},
        {"perturbation": 0.0},
        {"clean_weight": 0.3, "distillation_weight": 2.0, "temperature": 5.0, "merge": False},
        {"alignment": "direct", "perturb_by": "alignment", "merge": False},
        {"perturb_by": "alignment"},
        {"perturb_by": "distillation", "clean_weight": 0.0},
        {"label_weight": 3.0, "perturbed_weight": 2.0},
        {"label_weight": 3.0, "distillation_weight": 0.0, "feature_weight": 0.0},
        {"label_weight": 300.0, "label_difficulty": 0.8},
        {"alignment": "cam", "feature_weight": 1e5},
        {"alignment": "cam", "feature_weight": 1e5, "merge": False, "perturb_by": "alignment"},
    ],
    ids=str,
)
def test_gradients_equal_two_separate_passes(device: torch.device, changed: dict[str, Any]) -> None:
    teacher, student = pair(device)
    teacher, student = teacher.double(), student.double()
    x, labels = pictures(8, device).double(), torch.arange(8, device=device) % CLASSES
    execution = Execution(merge=changed.get("merge", True))
    config = replace(CONFIG, **{k: v for k, v in changed.items() if k != "merge"})
    harder, expected = by_hand(teacher, copy.deepcopy(student), x, labels, config)
    head = Head(FEATURE, "output")
    step = Recorder(teacher, student, LAYERS, config, execution, head)
    step(x, labels)
    if len(step.seen) > 1:
        torch.testing.assert_close(step.seen[1], harder)
    for (name, parameter), gradient in zip(student.named_parameters(), expected, strict=True):
        assert parameter.grad is not None
        scale = gradient.abs().max().item()
        assert scale > 0, name
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-4 * scale, msg=lambda m, n=name: n + m)


def test_pixels_without_a_gradient_stay(device: torch.device) -> None:
    teacher, student = pair(device)
    for network in (teacher, student):
        network.get_submodule("features.0").weight.data[:, 1] = 0
    step = Recorder(teacher, student, LAYERS, CONFIG)
    step(pictures(8, device))
    clean, harder = step.seen
    assert torch.equal(clean[:, 1], harder[:, 1])
    assert (clean[:, 0] != harder[:, 0]).all()


@pytest.mark.parametrize("changed", [{"perturbation": 0.0}, {"perturbed_weight": 0.0}])
def test_without_perturbed_images_nothing_is_paid_for_them(device: torch.device, changed: dict[str, Any]) -> None:
    step = Recorder(*pair(device), LAYERS, replace(CONFIG, **changed))
    step(pictures(8, device))
    assert len(step.seen) == 1
    assert step.asked == (False, False)  # neither the image's gradient nor the teacher's graph


def test_feature_weight_zero_taps_nothing(device: torch.device) -> None:
    teacher, student = pair(device)
    step = FinetuneStep(teacher, student, LAYERS, replace(CONFIG, feature_weight=0.0))
    assert not any(m._forward_hooks for n in (teacher, student) for m in n.modules())
    assert step(pictures(8, device))[1] == 0


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_updates_are_torchs_with_a_rate_per_step(device: torch.device, optimizer: str) -> None:
    teacher, student = pair(device)
    before = snapshot(teacher)
    config = replace(CONFIG, optimizer=optimizer, learning_rate=1e-4, weight_decay=0.1)
    step = FinetuneStep(teacher, student, LAYERS, config)
    theirs = [p.detach().clone().requires_grad_() for p in student.parameters()]
    kind: Any = torch.optim.AdamW
    options: dict[str, Any] = {"lr": 1e-4, "weight_decay": 0.1}
    if optimizer == "sgd":
        kind, options = torch.optim.SGD, options | {"momentum": 0.9, "nesterov": True}
    torchs = kind(theirs, **options)
    for number in range(1, 4):
        step.rate.fill_(1e-4 / number)
        torchs.param_groups[0]["lr"] = 1e-4 / number
        step(pictures(8, device))
        for mine, their in zip(student.parameters(), theirs, strict=True):
            assert mine.grad is not None
            their.grad = mine.grad.clone()
        torchs.step()
    for mine, their in zip(student.parameters(), theirs, strict=True):
        torch.testing.assert_close(mine, their)
    step.close()
    assert same_state(teacher, before)
    assert not any(m._forward_hooks for n in (teacher, student) for m in n.modules())


@pytest.mark.parametrize(("optimizer", "power"), [("sgd", 2), ("adamw", 1)])
def test_scaled_channels_take_steps_of_the_original_size(device: torch.device, optimizer: str, power: int) -> None:
    original = tiny(device).requires_grad_(False)
    scaled = equalize_activations(copy.deepcopy(original))
    pairs = zip(scaled.parameters(), original.parameters(), strict=True)
    factors = [float((p.square().mean() / q.square().mean()).sqrt()) ** power for p, q in pairs]
    assert max(factors) > 1.2
    assert min(factors) < 0.8
    before = [p + 0.05 * torch.randn_like(p) for p in scaled.parameters()]
    config = replace(CONFIG, optimizer=optimizer, feature_weight=0.0, learning_rate=1e-3, max_grad_norm=0.0)
    moved = []
    for given in (original, None):
        network = copy.deepcopy(scaled)
        for p, value in zip(network.parameters(), before, strict=True):
            p.copy_(value)
        network.requires_grad_(True)
        FinetuneStep(scaled, network, [], config, Execution(merge=False), original=given)(pictures(8, device))
        moved.append([p.detach() - value for p, value in zip(network.parameters(), before, strict=True)])
    for ours, plain, factor in zip(*moved, factors, strict=True):
        assert float(plain.abs().max()) > 0
        torch.testing.assert_close(ours, factor * plain, rtol=1e-2, atol=1e-6)


def test_gradient_is_clipped_on_request(device: torch.device) -> None:
    norms = []
    for limit in (0.0, 0.25):
        teacher, student = pair(device)
        FinetuneStep(teacher, student, LAYERS, replace(CONFIG, max_grad_norm=limit))(pictures(8, device))
        norms.append(torch.stack([p.grad.norm() for p in student.parameters()]).norm().item())
    assert norms[0] > 1
    assert norms[1] == pytest.approx(0.25, rel=1e-3)
