"""Iterations of both loops to count launches of, at any size, without computing anything."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from launch_counter import LaunchCounter
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import hast_cuda as hc
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.finetune.batches import StoredBatch
from hast_cuda.finetune.step import FinetuneStep, ReplayedStep
from hast_cuda.loops.crops import resize_crops
from hast_cuda.loops.execution import Execution
from hast_cuda.loops.finite import FiniteGuard
from hast_cuda.merged import BatchStatistics
from hast_cuda.networks.blocks import feature_layers
from hast_cuda.networks.ends import find_head
from hast_cuda.nn import freeze_ranges
from hast_cuda.synthesis import SynthesisConfig
from hast_cuda.synthesis.objective import make_objective
from hast_cuda.synthesis.step import SynthesisStep
from hast_cuda.synthesis.swing import Swing

CPU = torch.device("cpu")


def whole(shape: tuple[int, int, int, int]) -> torch.Tensor:
    """Crops [N, 5] that keep all of every image."""
    crops = torch.tensor([0.0, 0, *shape[2:], 0]).expand(shape[0], 5)
    # A real crop first: what crops of a size have in common is kept, but not from fake tensors.
    resize_crops(torch.zeros(1, 1, *shape[2:]), crops[:1])
    return crops


def synthesis_iteration(
    network: nn.Module,
    shape: tuple[int, int, int, int],
    config: SynthesisConfig | None = None,
    execution: Execution | None = None,
) -> Callable[[], None]:
    """One iteration on images of ``shape``, cropped if the configuration crops at all."""
    execution, config = execution or Execution(), config or SynthesisConfig()
    frozen = copy.deepcopy(network).eval().requires_grad_(False)
    segments = execution.checkpoint_segments
    swing = Swing(frozen, CPU) if config.swing else None
    statistics = BatchStatistics(frozen, merge=execution.merge, segments=segments)
    if swing is not None:  # what moves of a size have in common is kept, but not from fake tensors
        statistics.model(torch.zeros(1, *shape[1:]))
    objective = make_objective(statistics, shape, config, execution, CPU, swing=swing)
    step = SynthesisStep(objective, shape, execution, CPU)
    crops = whole(shape)
    return lambda: step(crops if config.augment_probability else None)


def finetune_iteration(
    network: nn.Module,
    shape: tuple[int, int, int, int],
    config: FinetuneConfig | None = None,
    execution: Execution | None = None,
) -> Callable[[], None]:
    """One iteration of a 4-bit student with frozen ranges on a batch of ``shape``."""
    execution, config = execution or Execution(), config or FinetuneConfig(max_grad_norm=1e3)
    teacher = copy.deepcopy(network).eval().requires_grad_(False)
    student = hc.quantize(network, 4, 4).eval().requires_grad_(True)
    freeze_ranges(student)
    head = find_head(teacher, shape[1:]) if config.uses_maps_of_classes else None
    step = FinetuneStep(teacher, student, feature_layers(network), config, execution, head)
    update = ReplayedStep(step, FiniteGuard("counted", CPU))
    batch = StoredBatch(torch.randn(shape), shape[0], torch.arange(shape[0]) % 2 if config.uses_labels else None)
    chosen, crops = torch.arange(shape[0]), whole(shape)

    def iteration() -> None:
        batch.fill(chosen, crops)
        step.set_rates(0)
        update(batch)

    return iteration


def count(iteration: Callable[[], Any]) -> LaunchCounter:
    """Launches and bytes of the second call: the first makes what is kept."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        iteration()
        with LaunchCounter() as counter:
            iteration()
    return counter
