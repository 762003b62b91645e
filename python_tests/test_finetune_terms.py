from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from networks import CHANNELS, CLASSES, SIZE, outputs_of, tiny
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.finetune import FinetuneConfig, finetune
from hast_cuda.finetune.map_distance import direct_alignment, map_distance
from hast_cuda.finetune.objective import label_loss, loss_terms
from hast_cuda.finetune.step import Step
from hast_cuda.loops.execution import Execution
from hast_cuda.merged.followed import Seen

LAYERS = ["features.1", "features.4"]
CONFIG = FinetuneConfig(learning_rate=1e-3, weight_decay=0.0, momentum=0.0, perturbation=0.05)


def double_pair() -> tuple[nn.Module, nn.Module, Tensor]:
    x = torch.randn(6, CHANNELS, SIZE, SIZE, dtype=torch.float64)
    student = hc.calibrate(hc.quantize(tiny().double(), 8, 8), [x])
    return tiny().double().requires_grad_(False), student, x


def test_divergence_averaged_over_the_classes_too() -> None:
    teacher, student = torch.tensor([[2.0, 0, -1]]), torch.tensor([[1.0, 1, 0]])
    config = FinetuneConfig(distillation_reduction="mean", feature_weight=0.0, perturbation=0.0)
    term, _ = loss_terms(config, Seen(teacher, [], []), Seen(student, [], []))
    assert 400 * term.item() == pytest.approx(0.152421, rel=1e-4)


def test_label_loss_hard_and_soft() -> None:
    logits = torch.tensor([[2.0, 0, -1], [0, 1, 0.5]])
    hard = label_loss(logits, torch.tensor([0, 2]))
    expected = -(torch.log_softmax(logits, 1)[[0, 1], [0, 2]]).mean()
    torch.testing.assert_close(hard, expected)
    soft = torch.tensor([[0.5, 0.5, 0], [0, 0.25, 0.75]])
    expected = -(soft * torch.log_softmax(logits, 1)).sum(1).mean()
    torch.testing.assert_close(label_loss(logits, soft), expected)


def test_direct_alignment_by_hand() -> None:
    teacher = [torch.zeros(1, 1, 1, 2), torch.ones(2, 1, 1, 1)]
    student = [torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([3.0, 1.0]).view(2, 1, 1, 1)]
    assert direct_alignment(teacher, student).item() == pytest.approx(5.0 + 2.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distances_sum_to_direct_alignment(dtype: torch.dtype) -> None:
    shapes = (3, 2, 4, 5), (3, 7, 1, 2)
    teacher, student = ([torch.randn(s, dtype=dtype) for s in shapes] for _ in range(2))
    distances = [
        (f_s - f_t).square().sum((2, 3)).requires_grad_()
        for f_s, f_t in zip(student, teacher, strict=True)
    ]
    loss = map_distance(distances, [20, 2])
    torch.testing.assert_close(loss.detach(), direct_alignment(teacher, student))
    found = torch.autograd.grad(5 * loss, distances)
    for gradient, shape in zip(found, shapes, strict=True):
        elements = torch.Size(shape).numel()
        expected = torch.full(shape[:2], 5 / elements, dtype=dtype)
        torch.testing.assert_close(gradient, expected)


class Recorder(Step):
    """Notes the images whose losses were asked for."""

    def losses(
        self, x: Tensor, labels: Tensor | None = None, *, teacher_grad: bool
    ) -> tuple[Tensor, ...]:
        self.seen = [*getattr(self, "seen", []), x.detach().clone()]
        return super().losses(x, labels, teacher_grad=teacher_grad)


@pytest.mark.parametrize("alignment", ["relaxed", "direct"])
@pytest.mark.parametrize("perturb_by", ["both", "distillation", "alignment"])
@pytest.mark.parametrize("merge", [True, False])
def test_direction_of_the_perturbation(perturb_by: str, alignment: str, merge: bool) -> None:
    teacher, student, x = double_pair()
    config = replace(CONFIG, perturb_by=perturb_by, alignment=alignment)
    step = Recorder(teacher, student, LAYERS, config, Execution(merge=merge))
    step(x)
    clean, harder = step.seen
    step.close()

    def term_of(x: Tensor) -> Tensor:
        (t, maps), (s, others) = (outputs_of(n, LAYERS, x) for n in (teacher, student))
        t, s = t / 20, s / 20
        kl = (t.softmax(1) * (t.log_softmax(1) - s.log_softmax(1))).sum(1).mean()
        fa = torch.zeros((), dtype=x.dtype)
        for a, b in zip(maps, others, strict=True):
            if alignment == "relaxed":
                a, b = (F.normalize(f.square().mean((2, 3)), dim=1) for f in (a, b))  # noqa: PLW2901
            fa = fa + F.mse_loss(a, b)
        parts = {"distillation": 8000 * kl, "alignment": 1000 * fa}
        return parts.get(perturb_by, 8000 * kl + 1000 * fa)

    # the student has stepped since: the same one anew
    teacher, student, _ = double_pair_like(x)
    image = x.clone().requires_grad_()
    (towards,) = torch.autograd.grad(term_of(image), image)
    assert torch.equal(clean, x)
    torch.testing.assert_close(harder, x + 0.05 * towards.sign())


def double_pair_like(x: Tensor) -> tuple[nn.Module, nn.Module, Tensor]:
    student = hc.calibrate(hc.quantize(tiny().double(), 8, 8), [x])
    return tiny().double().requires_grad_(False), student, x


@pytest.mark.parametrize("perturbation", [0.0, 0.05])
def test_labels_join_the_gradient(perturbation: float) -> None:
    teacher, student, x = double_pair()
    labels = torch.arange(6) % CLASSES
    config = replace(
        CONFIG, label_weight=3.0, distillation_weight=0.0, feature_weight=0.0,
        perturbation=perturbation, clean_weight=1.0, perturbed_weight=2.0,
    )  # fmt: skip
    step = Recorder(teacher, student, LAYERS, config)
    terms = step(x, labels)
    step.close()
    _, student, _ = double_pair_like(x)
    total = 3 * F.cross_entropy(student(x), labels)
    torch.testing.assert_close(3 * terms[-1], total.detach())
    if perturbation:
        image = x.clone().requires_grad_()
        (towards,) = torch.autograd.grad(F.cross_entropy(student(image), labels), image)
        harder = x + perturbation * towards.sign()
        total = total + 2 * 3 * F.cross_entropy(student(harder), labels)
    expected = torch.autograd.grad(total, list(student.parameters()))
    for parameter, gradient in zip(step.parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "label_weight is 1.0, which needs labels"),
        (torch.zeros(5, dtype=torch.int64), r"labels is \[5\] torch.int64; expected"),
        (torch.full((6,), CLASSES), f"labels go from {CLASSES} to {CLASSES}"),
        (torch.zeros(6, CLASSES + 1), f"labels has {CLASSES + 1} classes per image"),
    ],
)
def test_labels_refused(labels: Tensor | None, message: str) -> None:
    config = replace(CONFIG, iterations=1, batch_size=6, label_weight=1.0)
    student = hc.calibrate(hc.quantize(tiny(), 3, 3), [torch.randn(6, CHANNELS, SIZE, SIZE)])
    with pytest.raises(ValueError, match=message):
        finetune(tiny(), student, torch.randn(6, CHANNELS, SIZE, SIZE), config, labels=labels)
