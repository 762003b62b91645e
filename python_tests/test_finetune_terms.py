from __future__ import annotations

import pytest
import torch

from hast_cuda.finetune import FinetuneConfig
from hast_cuda.finetune.objective import direct_alignment, label_loss, loss_terms, map_distance
from hast_cuda.merged.followed import ForwardResult


def test_divergence_averaged_over_the_classes_too() -> None:
    teacher, student = torch.tensor([[2.0, 0, -1]]), torch.tensor([[1.0, 1, 0]])
    config = FinetuneConfig(distillation_reduction="mean", feature_weight=0.0, perturbation=0.0)
    term, _ = loss_terms(config, ForwardResult(teacher, [], []), ForwardResult(student, [], []))
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
    distances = [(f_s - f_t).square().sum((2, 3)).requires_grad_() for f_s, f_t in zip(student, teacher, strict=True)]
    loss = map_distance(distances, [20, 2])
    torch.testing.assert_close(loss.detach(), direct_alignment(teacher, student))
    found = torch.autograd.grad(5 * loss, distances)
    for gradient, shape in zip(found, shapes, strict=True):
        elements = torch.Size(shape).numel()
        expected = torch.full(shape[:2], 5 / elements, dtype=dtype)
        torch.testing.assert_close(gradient, expected)
