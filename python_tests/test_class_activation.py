"""Class activation maps in closed form beside Grad-CAM as it is defined, by autograd in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from networks import CLASSES, pictures, tiny
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.analysis import StudentLosses, gradient_cosines
from hast_cuda.finetune import FinetuneConfig, finetune
from hast_cuda.finetune.objective import class_activation_map, easy_label_loss, label_loss
from hast_cuda.finetune.step import FinetuneStep
from hast_cuda.methods import change, recipe

CAM = FinetuneConfig(alignment="cam", perturbation=0.0, iterations=2, batch_size=8)
SOFT = torch.rand(8, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).softmax(1)


def grad_cam(feature: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Weights are the mean over space of the gradient of the class's logit."""
    chosen = F.one_hot(labels, logits.shape[1]) if labels.dim() == 1 else labels
    (gradient,) = torch.autograd.grad((logits * chosen).sum(), feature, create_graph=True)
    return (gradient.mean((2, 3), keepdim=True) * feature).sum(1).relu().flatten(1)


@pytest.mark.parametrize("labels", [torch.arange(8) % CLASSES, SOFT], ids=["hard", "soft"])
def test_maps_and_gradients_are_grad_cams(labels: Tensor) -> None:
    feature = torch.randn(8, 6, 4, 3, dtype=torch.float64, requires_grad=True)
    head = nn.Linear(6, CLASSES).double()
    expected = grad_cam(feature, head(feature.mean((2, 3))), labels)
    chosen = F.one_hot(labels, CLASSES).double() if labels.dim() == 1 else labels
    found = class_activation_map(feature, head.weight, chosen)
    torch.testing.assert_close(found, expected)
    assert 0.2 < float((found > 0).double().mean()) < 0.8
    upstream = torch.randn_like(found)
    wanted = feature, head.weight
    gradients = (torch.autograd.grad(m, wanted, upstream, retain_graph=True) for m in (found, expected))
    torch.testing.assert_close(*gradients)


def test_half_precision_maps_count_in_float32() -> None:
    feature, weight = torch.randn(4, 6, 5, 5).bfloat16(), torch.randn(CLASSES, 6)
    chosen = torch.eye(CLASSES)[:4]
    found = class_activation_map(feature, weight, chosen)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, class_activation_map(feature.float(), weight, chosen))


@pytest.mark.parametrize("labels", [torch.arange(8) % CLASSES, SOFT], ids=["hard", "soft"])
def test_labels_of_easy_images(labels: Tensor) -> None:
    teacher, student = (3 * torch.randn(8, CLASSES, dtype=torch.float64) for _ in range(2))
    student.requires_grad_()
    targets = F.one_hot(labels, CLASSES).double() if labels.dim() == 1 else labels
    difficulty = 1 - (teacher.softmax(1) * targets).sum(1)
    threshold = float(difficulty.median()) + 1e-9
    easy = difficulty < threshold
    assert 0 < int(easy.sum()) < 8
    expected = -(targets * student.log_softmax(1)).sum(1)[easy].sum() / 8
    found = easy_label_loss(teacher, student, labels, threshold)
    torch.testing.assert_close(found, expected)
    gradients = (torch.autograd.grad(loss, student)[0] for loss in (found, expected))
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(easy_label_loss(teacher, student, labels, 2.0), label_loss(student, labels))


def calibrated() -> nn.Module:
    return hc.calibrate(hc.quantize(tiny(), 3, 3), [pictures(20)])


def test_what_cannot_be_aligned_is_refused() -> None:
    with pytest.raises(ValueError, match=r'alignment is "cam", which needs labels: .* it to "relaxed"'):
        finetune(tiny(), calibrated(), pictures(8), CAM)
    with pytest.raises(ValueError, match='alignment is "cam": give head'):
        FinetuneStep(tiny(), calibrated(), [], CAM)
    network, labels = tiny(), torch.arange(8) % CLASSES
    network.features.append(nn.AdaptiveMaxPool2d(1))
    student = hc.calibrate(hc.quantize(network, 3, 3), [pictures(20)])
    with pytest.raises(ValueError, match="what 'output' is given is not the mean over space of a map"):
        finetune(network, student, pictures(8), CAM, labels=labels)


def test_analyses_are_refused_by_name() -> None:
    teacher, student, x, y = tiny(), calibrated(), pictures(8), torch.arange(8) % CLASSES
    with pytest.raises(ValueError, match='alignment is "cam": class activation maps have no cosines'):
        gradient_cosines(teacher, student, [(x, y)], CAM)
    with pytest.raises(ValueError, match='alignment is "cam"'):
        StudentLosses(teacher, student, x, y, CAM)
    assert gradient_cosines(teacher, student, [(x, y)], replace(CAM, feature_weight=0.0), layers=["features.1"])


def test_a_generator_can_have_it_too() -> None:
    found = change(recipe("qimera"), {"finetune.alignment": "cam", "finetune.feature_weight": 1.0})
    assert found.finetune.uses_labels
