from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import pictures, same_state, snapshot, tiny
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.finetune import FinetuneConfig, finetune
from hast_cuda.finetune.checkpoint import Checkpoint, CheckpointFile
from hast_cuda.finetune.optimizer import WeightAverage

pytestmark = pytest.mark.usefixtures("exact")
CONFIG = FinetuneConfig(iterations=6, batch_size=8, learning_rate=1e-3, optimizer="adamw", evaluations=6)


def student() -> nn.Module:
    return hc.calibrate(hc.quantize(tiny(), 3, 3), [pictures(20)])


def parameters(network: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def test_the_last_student_is_the_mean_of_the_last_ones(device: torch.device) -> None:
    seen: list[dict[str, Tensor]] = []

    def look(network: nn.Module) -> float:
        seen.append(parameters(network))
        return 0.0

    plain = finetune(tiny(), student(), pictures(20), CONFIG, device=device, evaluate=look).student
    assert same_state(plain, snapshot(plain))
    mean = finetune(tiny(), student(), pictures(20), replace(CONFIG, average=0.5), device=device).student
    for name, value in parameters(mean).items():
        expected = torch.stack([found[name] for found in seen[3:]]).mean(0)
        assert torch.allclose(value, expected, rtol=1e-6, atol=1e-8), name
    buffers = dict(plain.named_buffers())
    assert all(torch.equal(value, buffers[name]) for name, value in mean.named_buffers())


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stop", [2, 5])
def test_a_run_that_was_cut_off_averages_as_if_it_was_not(stop: int, tmp_path: Path) -> None:
    config = replace(CONFIG, average=0.5)
    whole = finetune(tiny(), student(), pictures(20), config).student
    path = tmp_path / "last.safetensors"

    class Stopping(CheckpointFile):
        def save(self, state: Checkpoint, *running: Any) -> None:
            super().save(state, *running)
            if state.iteration == stop:
                raise Stopped

    with pytest.raises(Stopped):
        finetune(tiny(), student(), pictures(20), config, checkpoint=Stopping(path))
    again = finetune(tiny(), student(), pictures(20), config, checkpoint=CheckpointFile(path)).student
    assert same_state(again, snapshot(whole))


def test_averages_of_other_parameters_are_refused() -> None:
    average = WeightAverage([torch.zeros(2)], replace(CONFIG, average=0.5))
    with pytest.raises(ValueError, match="averages are of other parameters"):
        average.load({"0": torch.zeros(3)})


def test_the_fraction_is_checked() -> None:
    with pytest.raises(ValueError, match="average"):
        FinetuneConfig(average=1.5)
