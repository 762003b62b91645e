"""The statistics' loss: every kind of statistic, spread and reduction, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from networks import CHANNELS, SIZE, tiny
from torch import Tensor, nn

from hast_cuda.merged import BatchStatistics
from hast_cuda.synthesis import SynthesisConfig
from hast_cuda.synthesis.matching import Matching, sample_statistics

# Means [2, 2], [0, 2]; variances [1, 4], [0, 0]. As one batch: means [1, 2], variances [1.5, 2].
IMAGES = [[[[1.0, 3.0]], [[0.0, 4.0]]], [[[0.0, 0.0]], [[2.0, 2.0]]]]


def layer(mean: list[float], var: list[float]) -> nn.BatchNorm2d:
    """A BatchNorm with these statistics whose output is its input."""
    norm = nn.BatchNorm2d(len(mean), eps=0.0)
    norm.running_mean, norm.running_var = torch.tensor(mean), torch.tensor(var)
    norm.weight.data, norm.bias.data = norm.running_var.sqrt(), norm.running_mean.clone()
    return norm


def teacher(device: torch.device) -> nn.Sequential:
    """One layer; from it gaps of the means [1, 2], [-1, 2], of the variances [0, 0], [-1, -4]."""
    return nn.Sequential(layer([1.0, 0.0], [1.0, 4.0])).to(device).eval().requires_grad_(False)


def pictures(device: torch.device) -> Tensor:
    return torch.tensor(IMAGES, device=device, requires_grad=True)


def loss_of(model: nn.Module, images: Tensor, slack: tuple[float, float] | None = None, **changed: Any) -> Tensor:
    matching = Matching(BatchStatistics(model), SynthesisConfig(**changed))
    if slack is not None:
        pair = tuple(torch.tensor(value, device=images.device) for value in slack)
        matching.slack = dict.fromkeys(matching.statistics.layers, pair)  # type: ignore[arg-type]
    matching.statistics.model(images)
    return matching.loss(images)


R5, R17 = math.sqrt(5), math.sqrt(17)
# sqrt(0 + 1e-6) - sqrt(var + 1e-6) of the second image's channels
STD = [1e-3 - math.sqrt(1 + 1e-6), 1e-3 - math.sqrt(4 + 1e-6)]
BATCH_STD = [math.sqrt(a + 1e-6) - math.sqrt(b + 1e-6) for a, b in ((1.5, 1), (2, 4))]


@pytest.mark.parametrize(
    ("statistics", "spread", "reduction", "expected"),
    [
        ("batch", "variance", "mse", (4 + 4.25) / 2),
        ("batch", "variance", "norm", 2 + math.sqrt(4.25)),
        ("batch", "variance", "sum", 4 + 4.25),
        ("batch", "std", "mse", (4 + BATCH_STD[0] ** 2 + BATCH_STD[1] ** 2) / 2),
        ("batch", "std", "norm", 2 + math.hypot(*BATCH_STD)),
        ("batch", "std", "sum", 4 + BATCH_STD[0] ** 2 + BATCH_STD[1] ** 2),
        ("sample", "variance", "mse", (5 + 22) / 4),
        ("sample", "variance", "norm", R5 + R17 / 2),
        ("sample", "variance", "sum", (5 + 22) / 2),
        ("sample", "std", "mse", (10 + STD[0] ** 2 + STD[1] ** 2) / 4),
        ("sample", "std", "norm", R5 + math.hypot(*STD) / 2),
        # in units of the mean variance, 2.5
        ("batch", "variance", "relative", 4 / (2 * 2.5) + 4.25 / (2 * 2.5**2)),
        ("batch", "std", "relative", (4 + BATCH_STD[0] ** 2 + BATCH_STD[1] ** 2) / (2 * 2.5)),
        ("sample", "variance", "relative", 10 / (4 * 2.5) + 17 / (4 * 2.5**2)),
        ("sample", "std", "relative", (10 + STD[0] ** 2 + STD[1] ** 2) / (4 * 2.5)),
        ("sample", "std", "sum", (10 + STD[0] ** 2 + STD[1] ** 2) / 2),
    ],
)
def test_every_combination_by_hand(
    device: torch.device, statistics: str, spread: str, reduction: str, expected: float
) -> None:
    images = pictures(device)
    loss = loss_of(teacher(device), images, statistics=statistics, spread=spread, match_reduction=reduction)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, images)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0.01


def test_layers_are_summed_or_averaged_as_the_reduction_says(device: torch.device) -> None:
    model = nn.Sequential(layer([0.0, 0.0], [1.0, 1.0]), layer([1.0, 0.0], [1.0, 4.0]))
    for reduction, expected in (("sum", 23 / 2 + 27 / 2), ("mse", (23 / 4 + 27 / 4) / 2)):
        loss = loss_of(model.to(device).eval(), pictures(device), statistics="sample", match_reduction=reduction)
        assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        # gaps of the image: means [2, 2], [0, 2]; variances - 1: [0, 3], [-1, -1]
        ({"statistics": "sample", "match_reduction": "sum"}, 27 / 2 + (17 + 6) / 2),
        ({"statistics": "sample", "match_reduction": "mse"}, (27 / 4 + 23 / 4) / 2),
        # of the batch: means [1, 2], variances - 1: [.5, 1]
        ({"match_reduction": "sum"}, 8.25 + 5 + 1.25),
        ({"match_reduction": "mse"}, (8.25 / 2 + 6.25 / 2) / 2),
        # standard deviations - 1: [0, 1], [-.999, -.999]
        (
            {"statistics": "sample", "match_reduction": "sum", "spread": "std"},
            (10 + STD[0] ** 2 + STD[1] ** 2) / 2 + (12 + 1 + 2 * 0.999**2) / 2,
        ),
    ],
)
def test_the_image_is_one_more_layer(device: torch.device, changed: dict[str, Any], expected: float) -> None:
    loss = loss_of(teacher(device), pictures(device), match_input=True, **changed)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_only_what_exceeds_the_slack_costs(device: torch.device) -> None:
    images = pictures(device)
    changed = {"statistics": "sample", "match_reduction": "sum", "slack_percentile": 0.9}
    # |gaps| of the means [1, 2], [1, 2] - 1.5; of the variances [0, 0], [1, 4] - 2
    loss = loss_of(teacher(device), images, slack=(1.5, 2.0), **changed)
    assert loss.item() == pytest.approx((0.25 + 0.25 + 4) / 2)
    (gradient,) = torch.autograd.grad(loss, images)
    assert torch.equal(gradient[:, 0], torch.zeros_like(gradient[:, 0]))  # all within
    within = loss_of(teacher(device), images, slack=(2.0, 4.0), **changed)
    (gradient,) = torch.autograd.grad(within, images)
    assert within.item() == gradient.abs().max().item() == 0


def test_statistics_of_the_batch_have_slack_too(device: torch.device) -> None:
    # |gaps| of the means [0, 2] - 1.5, of the variances [.5, 2] - 1
    loss = loss_of(teacher(device), pictures(device), slack=(1.5, 1.0), slack_percentile=0.9)
    assert loss.item() == pytest.approx((0.25 + 1) / 2)


def test_the_slack_does_not_cover_the_image(device: torch.device) -> None:
    changed = {"statistics": "sample", "match_reduction": "sum", "slack_percentile": 0.9}
    loss = loss_of(teacher(device), pictures(device), slack=(2.0, 4.0), match_input=True, **changed)
    assert loss.item() == pytest.approx((17 + 6) / 2)


@pytest.mark.parametrize("match_input", [False, True])
def test_each_image_weighs_its_own_layer_more(device: torch.device, match_input: bool) -> None:
    model = nn.Sequential(layer([1.0, 0.0], [1.0, 4.0]), layer([0.0, 0.0], [1.0, 1.0]))
    images = torch.tensor([IMAGES[0], IMAGES[1], IMAGES[0]], device=device)
    changed = {"statistics": "sample", "match_reduction": "sum", "layer_emphasis": 2.0}
    loss = loss_of(model.to(device).eval(), images, match_input=match_input, **changed)
    # Losses of the layers are 5 and 17 for image 0, 22 and 6 for image 1; image 2 is image 0 again
    # and meets layer 0 again. The image as a layer costs 17 and 6 and meets nobody.
    expected = (3 * 5 + 17) + (22 + 3 * 6) + (3 * 5 + 17) + match_input * (17 + 6 + 17)
    assert loss.item() == pytest.approx(expected / 3)


@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (2, 4, 1, 1), (5, 4), (3, 4, 7)])
def test_sample_statistics_equal_torchs(device: torch.device, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, device=device) + 3
    x.requires_grad_()
    mean, var = sample_statistics(x, *(torch.full((4,), v, device=device) for v in (2.5, 1.0)))
    flat = x.reshape(*shape[:2], -1)
    expected_var, expected_mean = torch.var_mean(flat, 2, correction=0)
    torch.testing.assert_close(mean, expected_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(var, expected_var, rtol=1e-5, atol=1e-6)
    weights = torch.randn(2, *shape[:2], device=device)
    found, wanted = (
        torch.autograd.grad((weights[0] * a + weights[1] * b).sum(), x)[0]
        for a, b in ((mean, var), (expected_mean, expected_var))
    )
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("statistics", ["batch", "sample"])
def test_maps_of_one_position_have_a_finite_loss(device: torch.device, statistics: str) -> None:
    norm = layer([0.5] * 4, [1.0] * 4)
    model = nn.Sequential(nn.Conv2d(3, 4, 8), norm).to(device).eval().requires_grad_(False)
    images = torch.randn(1, 3, 8, 8, device=device, requires_grad=True)
    loss = loss_of(model, images, statistics=statistics, spread="std", match_reduction="sum")
    (gradient,) = torch.autograd.grad(loss, images)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_a_layer_that_was_not_reached_does_not_count(device: torch.device) -> None:
    class Skipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = layer([1.0, 0.0], [1.0, 4.0]), layer([9.0, 9.0], [1.0, 1.0])

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model = Skipping().to(device).eval()
    loss = loss_of(model, pictures(device), statistics="sample", match_reduction="mse")
    assert loss.item() == pytest.approx(27 / 4)


@pytest.mark.parametrize("changed", [{}, {"match_reduction": "sum"}, {"statistics": "sample"}])
def test_a_loss_needs_a_forward_each_time(device: torch.device, changed: dict[str, Any]) -> None:
    matching = Matching(BatchStatistics(teacher(device)), SynthesisConfig(**changed))
    images = pictures(device)
    matching.statistics.model(images)
    matching.loss(images)
    with pytest.raises(ValueError, match="no BatchNorm layer was reached: run a forward pass"):
        matching.loss(images)


@pytest.mark.parametrize("segments", [0, 3])
@pytest.mark.parametrize("statistics", ["batch", "sample"])
def test_merged_and_checkpointed_networks_give_the_same(device: torch.device, statistics: str, segments: int) -> None:
    random = torch.Generator().manual_seed(1)
    x = torch.randn(4, CHANNELS, SIZE, SIZE, generator=random).to(device).requires_grad_()
    config = SynthesisConfig(statistics=statistics, spread="std", match_reduction="sum")
    results = []
    for options in ({}, {"merge": True, "segments": segments}):
        model = tiny(device).requires_grad_(False)
        matching = Matching(BatchStatistics(model, **options), config)  # type: ignore[arg-type]
        matching.statistics.model(x)
        loss = matching.loss(x)
        results.append((loss, torch.autograd.grad(loss, x)[0]))
    for plain, merged in zip(*results, strict=True):
        torch.testing.assert_close(merged, plain, rtol=1e-4, atol=1e-6)
