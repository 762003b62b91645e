"""The baseline of the benchmarks computes what hast_cuda computes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from eager_steps import EagerFinetune, EagerSynthesis
from networks import CHANNELS, CLASSES, SIZE, tiny
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.finetune.config import FinetuneConfig
from hast_cuda.finetune.step import FinetuneStep
from hast_cuda.loops.execution import Execution
from hast_cuda.merged import BatchStatistics
from hast_cuda.ops import fake_quantize
from hast_cuda.synthesis.config import SynthesisConfig
from hast_cuda.synthesis.objective import make_objective
from hast_cuda.synthesis.step import SynthesisStep

BATCH = 6
LAYERS = ["features.1", "features.4"]
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """Float64 wherever a step makes a tensor of its own."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def pictures() -> Tensor:
    return torch.randn(BATCH, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(3))


def student() -> nn.Module:
    quantized = hc.quantize(tiny(), 3, 3).double()
    return hc.calibrate(quantized, [pictures()]).eval().requires_grad_(True)


@pytest.mark.parametrize("wasteful", [False, True])
@pytest.mark.parametrize(
    "config",
    [SynthesisConfig(), SynthesisConfig(match_reduction="norm", difficulty_exponent=0.5, detach_difficulty=True)],
)
def test_synthesis_equals_hast_cuda(config: SynthesisConfig, wasteful: bool) -> None:
    teacher, device = tiny().double().requires_grad_(False), torch.device("cpu")
    images, labels = pictures(), torch.arange(BATCH) % CLASSES
    eager = EagerSynthesis(teacher, images, labels, config, wasteful=wasteful)
    shape = (BATCH, CHANNELS, SIZE, SIZE)
    objective = make_objective(BatchStatistics(teacher), shape, config, Execution(), device)
    ours = SynthesisStep(objective, shape, Execution(), device)
    ours.start([images], labels, "test")
    for _ in range(2):
        match, label = eager()
        ours()
        torch.testing.assert_close(match, ours.metrics["match"], **CLOSE)
        torch.testing.assert_close(label, ours.metrics["label"], **CLOSE)
        assert ours.images.grad is not None
        assert ours.images.grad.abs().max() > 0
        torch.testing.assert_close(eager.images.grad, ours.images.grad, **CLOSE)
        torch.testing.assert_close(eager.images, ours.images, rtol=1e-6, atol=1e-6)
        with torch.no_grad():  # Adam's first steps divide small gradients by their own size
            eager.images.copy_(ours.images)


def test_waste_is_wasted() -> None:
    teacher, labels = tiny().double().requires_grad_(False), torch.zeros(BATCH, dtype=torch.int64)
    for wasteful in (False, True):
        step = EagerSynthesis(teacher, pictures(), labels, SynthesisConfig(), wasteful=wasteful)
        step()
        assert any(p.grad is not None for p in step.teacher.parameters()) == wasteful
        assert step.stack == wasteful


@pytest.mark.parametrize("wasteful", [False, True])
@pytest.mark.parametrize(
    "config", [FinetuneConfig(), FinetuneConfig(normalized_attention=False, perturbed_weight=3.0, max_grad_norm=0.5)]
)
def test_finetune_equals_hast_cuda(config: FinetuneConfig, wasteful: bool) -> None:
    teacher, x = tiny().double().requires_grad_(False), pictures()
    eager = EagerFinetune(teacher, student(), LAYERS, config, wasteful=wasteful)
    ours = FinetuneStep(teacher, student(), LAYERS, config)
    for _ in range(3):
        terms = eager(x)
        for mine, theirs in zip(ours(x), terms, strict=True):
            torch.testing.assert_close(mine, theirs, **CLOSE)
        for mine, theirs in zip(ours.parameters, eager.parameters, strict=True):
            assert mine.grad is not None
            assert mine.grad.abs().max() > 0
            torch.testing.assert_close(theirs.grad, mine.grad, **CLOSE)
            torch.testing.assert_close(theirs, mine, **CLOSE)
    ours.close()


def test_the_student_is_quantized() -> None:
    eager = EagerFinetune(tiny().double(), student(), LAYERS, FinetuneConfig())
    torch.testing.assert_close(eager.student(pictures()), student()(pictures()), **CLOSE)
    weight = eager.layers[0].weight
    rows = weight.detach().flatten(1)
    expected = fake_quantize(weight.detach(), rows.amin(1), rows.amax(1), 3, channel_axis=0)
    torch.testing.assert_close(eager.quantized()[0], expected, **CLOSE)
