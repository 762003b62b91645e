"""DSG's slack: how far statistics of Gaussian images are from the stored ones costs nothing."""

from __future__ import annotations

import math
from collections import defaultdict

import torch
from torch import Tensor, nn

from hast_cuda.loops.execution import Execution
from hast_cuda.loops.seeding import generator
from hast_cuda.synthesis.matching import Matching


def batch_sizes(images: int, batch_size: int, statistics: str) -> list[int]:
    """Sizes of the batches that ``images`` come in.

    Whole ones for statistics of the batch, at least one: those of fewer images scatter more.
    """
    if statistics == "batch":
        return [batch_size] * math.ceil(images / batch_size)
    return [min(batch_size, images - start) for start in range(0, images, batch_size)]


def percentile(values: Tensor, fraction: float) -> Tensor:
    """The least of ``values`` that a share of ``fraction`` > 0 of them do not exceed; 0-d."""
    # torch.quantile refuses more than 2^24 values, which wide networks reach
    return values.flatten().kthvalue(max(1, math.ceil(fraction * values.numel()))).values


@torch.no_grad()
def measure_slack(
    matching: Matching, shape: tuple[int, int, int, int], execution: Execution,
    device: torch.device, seed: int,
) -> dict[nn.Module, tuple[Tensor, Tensor]]:  # fmt: skip
    """Per layer the slack of mean and spread, two 0-d tensors on ``device``.

    Each is the ``slack_percentile`` over channels and rows (images, or batches) of
    ``|statistic of N(0, 1) images - stored statistic|``, the statistic being the one matched.

    Args:
        matching: the run's; its configuration says how many images, and which percentile.
        shape: [N, C, H, W] of the run's batches.
        execution: how the run computes.
        device: where the teacher is.
        seed: of the run.
    """
    config = matching.config
    found: dict[nn.Module, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    sizes = batch_sizes(config.slack_images, shape[0], config.statistics)
    for index, size in enumerate(sizes):
        noise = torch.randn(size, *shape[1:], generator=generator(seed, "slack", index))
        images = execution.images(noise.to(device))
        with execution.autocast(device):
            matching.statistics.model(images)
        for gap in matching.gaps(images):
            if gap.layer is not None:
                found[gap.layer].append((gap.mean.abs().cpu(), gap.spread.abs().cpu()))
    slack = {}
    for layer, gaps in found.items():
        mean, spread = (torch.cat(parts) for parts in zip(*gaps, strict=True))
        limits = (percentile(values, config.slack_percentile) for values in (mean, spread))
        mean_slack, spread_slack = (limit.to(device) for limit in limits)
        slack[layer] = (mean_slack, spread_slack)
    return slack
