"""CUDA graphs of whole iterations: the same bits as without, and no capture of what reads back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from networks import CHANNELS, SIZE, pictures, tiny
from torch import nn

import hast_cuda as hc
from hast_cuda.data import InputSpec
from hast_cuda.finetune import FinetuneConfig, finetune
from hast_cuda.generator.trainer import GeneratorTrainer
from hast_cuda.loops.execution import Execution
from hast_cuda.methods import genie
from hast_cuda.synthesis import SynthesisConfig, synthesize

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
SHAPE = InputSpec(CHANNELS, SIZE, SIZE, 5)
FINETUNE = FinetuneConfig(iterations=9, batch_size=8, learning_rate=1e-5, max_grad_norm=1.0)


def tuned(execution: Execution, config: FinetuneConfig = FINETUNE) -> nn.Module:
    x = pictures(16)
    student = hc.calibrate(hc.quantize(tiny(), 4, 4), [x])
    return finetune(tiny(), student, x, config, device="cuda", execution=execution).student


@pytest.mark.parametrize("loop", ["synthesis", "projected", "grown", "sgd", "adamw"])
def test_graphs_give_the_bits_of_plain_iterations(loop: str) -> None:
    device = torch.device("cuda")
    results = []
    for mode in ("off", "on"):
        execution = Execution(cuda_graphs=mode)
        if loop in ("synthesis", "projected"):
            config = SynthesisConfig(num_images=12, batch_size=8, iterations=12, augment_probability=0.5)
            if loop == "projected":
                config = replace(config, lowest=(-0.5,) * CHANNELS, highest=(0.5,) * CHANNELS)
            results.append(synthesize(tiny(), SHAPE, config, device=device, execution=execution).images)
        elif loop == "grown":  # and its strided convolution swings
            config = replace(genie.IMAGES, num_images=12, batch_size=8, iterations=12)
            results.append(synthesize(tiny(), SHAPE, config, device=device, execution=execution).images)
        else:
            student = tuned(execution, replace(FINETUNE, optimizer=loop))
            results.append(torch.cat([p.detach().flatten() for p in student.parameters()]))
    assert torch.equal(results[0], results[1])


def test_generators_and_inundation_give_the_same_bits_in_a_graph() -> None:
    results = []
    config = FinetuneConfig(
        iterations=9,
        batch_size=8,
        learning_rate=1e-5,
        feature_weight=0.0,
        perturbation=0.0,
        label_weight=1.0,
        flip_fraction=0.02,
    )
    for mode in ("off", "on"):
        trainer = GeneratorTrainer(tiny(), (CHANNELS, SIZE, SIZE), 5, batch_size=8, device="cuda", seed=1)
        x = pictures(16)
        student = hc.calibrate(hc.quantize(tiny(), 4, 4), [x])
        execution = Execution(cuda_graphs=mode)
        finetune(tiny(), student, trainer, config, device="cuda", execution=execution)
        results.append(torch.cat([p.detach().flatten() for p in student.parameters()]))
    assert torch.equal(results[0], results[1])
