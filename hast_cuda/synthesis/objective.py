"""Difficulty of a sample, IntraQ's loss on its label, DSG's slack: what a run's batches share."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hast_cuda.checks import tensors as _checks
from hast_cuda.loops.execution import Execution
from hast_cuda.loops.seeding import generator
from hast_cuda.merged import BatchStatistics
from hast_cuda.ops.hard_sample_loss import check_classes
from hast_cuda.synthesis.config import SynthesisConfig
from hast_cuda.synthesis.intra_class import ClassFeatures
from hast_cuda.synthesis.matching import Matching
from hast_cuda.synthesis.swing import Swing

LARGEST_PROBABILITY = 1 - 1e-6  # as in the op


def difficulty(logits: Tensor, labels: Tensor) -> Tensor:
    """Eq. 7: ``d = 1 - p_y``, [N, classes] and [N] -> [N] in float32; p is clamped to 1 - 1e-6."""
    _checks.logits("logits", logits)
    check_classes(logits, labels, values=True)
    log_p = torch.log_softmax(logits.float(), dim=1).gather(1, labels[:, None])[:, 0]
    return 1 - log_p.exp().clamp(max=LARGEST_PROBABILITY)


def soft_label_loss(
    logits: Tensor, labels: Tensor, targets: Tensor, *, check_labels: bool = True
) -> tuple[Tensor, Tensor]:
    """IntraQ's soft inception loss, ``mean_i (p_i - t_i)^2`` with p the label's probability.

    Logits [N, classes], labels [N] int64, the targets t [N] float32 -> the loss and, without
    gradient, the mean difficulty (Eq. 7); 0-d float32.
    """
    _checks.flag("check_labels", check_labels)
    _checks.logits("logits", logits)
    check_classes(logits, labels, values=check_labels)
    _checks.floating("targets", targets)
    _checks.same_device("targets", targets, "logits", logits)
    if targets.shape != labels.shape:
        raise ValueError(f"targets has shape {tuple(targets.shape)}; expected {tuple(labels.shape)}")
    p = torch.softmax(logits.float(), dim=1).gather(1, labels[:, None])[:, 0]
    d = 1 - p.detach().clamp(max=LARGEST_PROBABILITY)
    return (p - targets).square().mean(), d.mean()


def batch_sizes(images: int, batch_size: int, statistics: str) -> list[int]:
    """Sizes of the batches that ``images`` come in; few images' batch statistics scatter more."""
    if statistics == "batch":
        return [batch_size] * math.ceil(images / batch_size)
    return [min(batch_size, images - start) for start in range(0, images, batch_size)]


def percentile(values: Tensor, fraction: float) -> Tensor:
    """The least of ``values`` that a share of ``fraction`` > 0 of them do not exceed; 0-d."""
    # torch.quantile refuses more than 2^24 values, which wide networks reach
    return values.flatten().kthvalue(max(1, math.ceil(fraction * values.numel()))).values


@torch.no_grad()
def measure_slack(
    matching: Matching, shape: tuple[int, int, int, int], execution: Execution, device: torch.device, seed: int
) -> dict[nn.Module | None, tuple[Tensor, Tensor]]:
    """Per layer the slack of mean and spread, 0-d, from ``|statistic of N(0, 1) images - stored|``:
    the ``slack_percentile`` over channels and rows."""
    config = matching.config
    found: dict[nn.Module | None, tuple[list[Tensor], list[Tensor]]]
    found = defaultdict(lambda: ([], []))

    def limit(parts: list[Tensor]) -> Tensor:
        return percentile(torch.cat(parts), config.slack_percentile).to(device)

    sizes = batch_sizes(config.slack_images, shape[0], config.statistics)
    for index, size in enumerate(sizes):
        noise = torch.randn(size, *shape[1:], generator=generator(seed, "slack", index))
        images = execution.images(noise.to(device))
        with execution.autocast(device):
            matching.statistics.model(images)
        for gap in matching.gaps(images):
            if gap.layer is not None:
                for kept, values in zip(found[gap.layer], (gap.mean, gap.spread), strict=True):
                    kept.append(values.abs().cpu())
    return {layer: (limit(means), limit(spreads)) for layer, (means, spreads) in found.items()}


@dataclass(frozen=True)
class Objective:
    """What the terms of the loss need once per run; its batches share it."""

    matching: Matching
    features: ClassFeatures | None
    """None without margins: then batches do not depend on each other."""
    swing: Swing | None = None
    """Of the network's strided convolutions, if they do."""


def make_objective(
    statistics: BatchStatistics,
    shape: tuple[int, int, int, int],
    config: SynthesisConfig,
    execution: Execution,
    device: torch.device,
    seed: int = 0,
    swing: Swing | None = None,
) -> Objective:
    """The objective that ``config`` names for batches of ``shape``; measures DSG's slack.

    ``swing`` is that of the network of ``statistics``."""
    matching = Matching(statistics, config)
    if config.slack_percentile:
        matching.slack = measure_slack(matching, shape, execution, device, seed)
    features = None
    if config.has_margins:
        features = ClassFeatures(matching, shape[1:], execution, device)
    return Objective(matching, features, swing)
