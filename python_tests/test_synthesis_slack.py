"""DSG's slack against the definition."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from networks import CHANNELS, SIZE, tiny
from torch import nn

from hast_cuda.loops.execution import Execution
from hast_cuda.loops.seeding import generator
from hast_cuda.merged import BatchStatistics
from hast_cuda.synthesis import SynthesisConfig
from hast_cuda.synthesis.matching import Matching
from hast_cuda.synthesis.objective import batch_sizes, measure_slack, percentile

SHAPE = (4, CHANNELS, SIZE, SIZE)
CONFIG = SynthesisConfig(
    statistics="sample", spread="std", match_reduction="sum", slack_percentile=0.9, slack_images=10
)


def measured(
    config: SynthesisConfig, device: torch.device, seed: int = 0, execution: Execution | None = None
) -> tuple[Matching, list[tuple[float, float]]]:
    execution = execution or Execution(merge=False)
    network = execution.network(tiny(device).requires_grad_(False))
    matching = Matching(BatchStatistics(network, merge=execution.merge), config)
    matching.slack = measure_slack(matching, SHAPE, execution, device, seed)
    assert list(matching.slack) == matching.statistics.layers
    return matching, [(float(mean), float(spread)) for mean, spread in matching.slack.values()]


@pytest.mark.parametrize(("fraction", "expected"), [(0.9, 9.0), (0.91, 10.0), (0.05, 1.0), (0.5, 5.0), (1.0, 10.0)])
def test_percentile_is_the_nearest_rank(fraction: float, expected: float) -> None:
    values = torch.arange(10, 0, -1.0).view(2, 5)
    assert percentile(values, fraction).item() == expected


def test_batches_of_batch_statistics_are_whole() -> None:
    assert batch_sizes(10, 4, "sample") == [4, 4, 2]
    assert batch_sizes(10, 4, "batch") == [4, 4, 4]
    assert batch_sizes(3, 4, "batch") == [4]
    assert batch_sizes(3, 4, "sample") == [3]


@pytest.mark.parametrize("spread", ["std", "variance"])
@pytest.mark.parametrize("statistics", ["sample", "batch"])
def test_equals_the_definition(device: torch.device, statistics: str, spread: str) -> None:
    config = replace(CONFIG, statistics=statistics, spread=spread, match_input=True)
    _, found = measured(config, device, seed=5)
    sizes = [4, 4, 2] if statistics == "sample" else [4, 4, 4]
    network, inputs = tiny(device), []
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.register_forward_hook(lambda m, args, out: inputs.append(args[0].detach()))
    deviations: list[tuple[list[float], list[float]]] = [([], []) for _ in norms]
    for index, size in enumerate(sizes):
        inputs.clear()
        noise = torch.randn(size, *SHAPE[1:], generator=generator(5, "slack", index))
        network(noise.to(device))
        for norm, x, (means, spreads) in zip(norms, inputs, deviations, strict=True):
            dims = (2, 3) if statistics == "sample" else (0, 2, 3)
            var, mean = torch.var_mean(x, dims, correction=0)
            gap = var - norm.running_var
            if spread == "std":
                gap = (var + 1e-6).sqrt() - (norm.running_var + 1e-6).sqrt()
            means.extend((mean - norm.running_mean).abs().flatten().tolist())
            spreads.extend(gap.abs().flatten().tolist())
    for pair, expected in zip(found, deviations, strict=True):
        for value, values in zip(pair, expected, strict=True):
            rank = -(-9 * len(values) // 10)
            assert value == pytest.approx(sorted(values)[rank - 1], rel=1e-4)


def test_the_seed_decides_and_networks_agree(device: torch.device) -> None:
    _, first = measured(CONFIG, device)
    assert measured(CONFIG, device)[1] == first
    assert measured(CONFIG, device, seed=1)[1] != first
    for execution in (Execution(), Execution(merge=False, channels_last=True)):
        _, other = measured(CONFIG, device, execution=execution)
        assert torch.allclose(torch.tensor(other), torch.tensor(first), rtol=1e-4)


def test_gaussian_images_cost_nothing_within_their_largest_deviation(device: torch.device) -> None:
    matching, slack = measured(replace(CONFIG, slack_percentile=1.0), device)
    images = torch.randn(4, *SHAPE[1:], generator=generator(0, "slack", 1)).to(device)
    matching.statistics.model(images)
    assert matching.loss(images).item() == 0
    assert min(min(pair) for pair in slack) > 0
    matching.slack.clear()
    matching.statistics.model(images)
    assert matching.loss(images).item() > 0.1
