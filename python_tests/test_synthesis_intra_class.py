"""IntraQ's terms: the soft inception loss, and the distance to earlier images of the class."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from networks import CHANNELS, CLASSES, SIZE, tiny
from torch import Tensor, nn

from hast_cuda.loops.execution import Execution
from hast_cuda.merged import BatchStatistics
from hast_cuda.synthesis import SynthesisConfig, margin_loss, soft_label_loss
from hast_cuda.synthesis.draws import draw_targets
from hast_cuda.synthesis.intra_class import ClassDistance, ClassFeatures, ClassifierTap, find_classifier
from hast_cuda.synthesis.matching import Matching

SHAPE = (CHANNELS, SIZE, SIZE)
CPU = torch.device("cpu")


def test_soft_label_loss_by_hand(device: torch.device) -> None:
    # softmax of [ln 4, 0] is [.8, .2], of [0, 0] [.5, .5]
    logits = torch.tensor([[math.log(4), 0.0], [0.0, 0.0]], device=device, requires_grad=True)
    labels, targets = torch.tensor([0, 1], device=device), torch.tensor([0.9, 1.0], device=device)
    loss, difficulty = soft_label_loss(logits, labels, targets)
    assert loss.item() == pytest.approx((0.1**2 + 0.5**2) / 2)
    assert difficulty.item() == pytest.approx((0.2 + 0.5) / 2)
    (gradient,) = torch.autograd.grad(loss, logits)
    # 2 (p - t) p (1 - p) / N on the label
    assert gradient[0, 0].item() == pytest.approx(-0.1 * 0.8 * 0.2, rel=1e-4)
    assert gradient[1, 1].item() == pytest.approx(-0.5 * 0.5 * 0.5, rel=1e-4)
    assert not difficulty.requires_grad


def test_half_of_the_targets_are_one_and_the_others_uniform() -> None:
    config = SynthesisConfig(label_loss="soft", soft_target=0.6)
    targets = draw_targets(config, 4000, seed=0, batch=0)
    soft = targets[targets < 1]
    assert len(soft) == pytest.approx(2000, abs=150)
    assert (soft.min().item(), soft.max().item()) == pytest.approx((0.6, 1.0), abs=0.01)
    assert soft.mean().item() == pytest.approx(0.8, abs=0.01)
    assert torch.equal(targets, draw_targets(config, 4000, seed=0, batch=0))
    assert not torch.equal(targets, draw_targets(config, 4000, seed=0, batch=1))
    assert (draw_targets(SynthesisConfig(), 10, 0, 0) == 1).all()


def test_margin_loss_by_hand(device: torch.device) -> None:
    # cosines 1, 0, -1, .6: distances 0, 1, 2, .4
    features = torch.tensor([[2.0, 0], [0, 3], [-1, 0], [3, 4]], device=device)
    references = torch.tensor([[1.0, 0]], device=device).expand(4, 2)
    known = torch.ones(4, device=device)
    loss = margin_loss(features, references, known, (0.1, 0.8))
    assert loss.item() == pytest.approx((0.1 + 0.2 + 1.2 + 0) / 4, rel=1e-5)
    known[2] = 0
    loss = margin_loss(features, references, known, (0.1, 0.8))
    assert loss.item() == pytest.approx((0.1 + 0.2 + 0) / 3, rel=1e-5)
    loss = margin_loss(features, references * 0, known * 0, (0.1, 0.8))
    assert loss.item() == 0


class ConvHead(nn.Module):
    """Classifies by a 1x1 convolution, registered before what feeds it, and pools its output."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(6, CLASSES, 1)
        self.body = nn.Sequential(nn.Conv2d(CHANNELS, 6, 3), nn.BatchNorm2d(6), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)).mean((2, 3))


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_the_feature_is_what_the_classifier_pools(device: torch.device, kind: str, merge: bool) -> None:
    network = tiny(device) if kind == "linear" else ConvHead().eval().to(device)
    body = network.features if kind == "linear" else network.body
    images = torch.randn(4, *SHAPE, device=device)
    expected = body(images).mean((2, 3))
    statistics = BatchStatistics(network.requires_grad_(False), merge=merge)
    classifier = find_classifier(statistics.model, SHAPE, device)
    assert classifier is (network.output if kind == "linear" else network.head)
    tap = ClassifierTap(classifier)
    statistics.model(images)
    torch.testing.assert_close(tap.take(), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="the classifier was not reached"):
        tap.take()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), "the last one .* is none"),
        (
            nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.GLU()),
            "a layer with 3 outputs .* the last one with a weight here is Conv2d with 6",
        ),
    ],
)
def test_a_network_without_a_classifier_is_refused(model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_classifier(model, SHAPE, CPU)
    assert not any(m._forward_pre_hooks for m in model.modules())


def class_features(device: torch.device, execution: Execution | None = None) -> ClassFeatures:
    execution = execution or Execution()
    network = execution.network(tiny(device).requires_grad_(False))
    segments = execution.checkpoint_segments
    statistics = BatchStatistics(network, merge=execution.merge, segments=segments)
    return ClassFeatures(Matching(statistics, SynthesisConfig()), SHAPE, execution, device)


@pytest.mark.parametrize("execution", [Execution(), Execution(checkpoint_segments=2), Execution(channels_last=True)])
def test_references_are_means_of_the_class(device: torch.device, execution: Execution) -> None:
    features = class_features(device, execution)
    images, labels = torch.randn(5, *SHAPE), torch.tensor([0, 1, 0, 3, 0])
    features.add(images[:2], labels[:2])
    features.add(images[2:], labels[2:])
    each = tiny().features(images).mean((2, 3))
    means, known = features.references(torch.tensor([3, 0, 2, 1], device=device))
    assert known.tolist() == [1, 1, 0, 1]
    expected = torch.stack([each[3], each[[0, 2, 4]].mean(0), torch.zeros(8), each[1]])
    torch.testing.assert_close(means, expected, rtol=1e-4, atol=1e-5)


def test_distance_of_a_batch_uses_the_references_of_its_start(device: torch.device) -> None:
    features = class_features(device)
    distance = ClassDistance(features, 3, (0.0, 1e-3))
    random = torch.Generator().manual_seed(2)
    earlier, images = (torch.randn(n, *SHAPE, generator=random) for n in (4, 3))
    labels = torch.tensor([0, 1, 4], device=device)
    model = features.matching.statistics.model

    def loss() -> float:
        model(images.to(device))
        return distance.loss().item()

    distance.start(labels)
    assert loss() == 0
    features.add(earlier, torch.tensor([0, 0, 1, 2]))
    assert loss() == 0  # a batch that has started keeps its references
    distance.start(labels)
    body = tiny().features
    old, new = (body(x).mean((2, 3)) for x in (earlier, images))
    means = torch.stack([old[:2].mean(0), old[2]])
    excess = 1 - F.cosine_similarity(new[:2], means) - 1e-3
    assert excess.min() > 0
    assert loss() == pytest.approx(excess.mean().item(), rel=1e-3)
