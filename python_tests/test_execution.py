"""Options of how to compute: they change speed and memory, not what is computed."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from cases import refused
from counting import count, synthesis_iteration
from networks import CHANNELS, SIZE, Branching, pictures, snapshot, tiny
from pytorchcv.model_provider import get_model
from timing import peak_bytes
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.data import InputSpec
from hast_cuda.finetune import FinetuneConfig, finetune
from hast_cuda.loops.execution import Execution, convolution_rules
from hast_cuda.loops.graphs import Replayed
from hast_cuda.merged import BatchStatistics
from hast_cuda.run import Bits, zero_shot_quantize
from hast_cuda.synthesis import SynthesisConfig, synthesize
from hast_cuda.synthesis.objective import make_objective
from hast_cuda.synthesis.step import SynthesisStep

SHAPE = InputSpec(CHANNELS, SIZE, SIZE, 5)
SYNTHESIS = SynthesisConfig(num_images=12, batch_size=8, iterations=12, learning_rate=0.1)
FINETUNE = FinetuneConfig(iterations=6, batch_size=8, learning_rate=1e-5, evaluations=2)
OTHERS = {
    "unmerged": Execution(merge=False),
    "channels_last": Execution(channels_last=True),
    "checkpointed": Execution(checkpoint_segments=3),
    "bf16": Execution(precision="bf16"),
}
# Of 12 or 6 steps from the same start; bfloat16 has three significant digits.
TOLERANCE = {"unmerged": 2e-3, "channels_last": 2e-3, "checkpointed": 1e-6, "bf16": 0.2}


def tuned(device: torch.device, execution: Execution) -> nn.Module:
    student = hc.calibrate(hc.quantize(tiny(), 4, 4), [pictures(16)])
    return finetune(tiny(), student, pictures(16), FINETUNE, device=device, execution=execution).student


@pytest.mark.parametrize("name", OTHERS)
def test_synthesis_gives_the_same_images(device: torch.device, name: str) -> None:
    expected = synthesize(tiny(), SHAPE, SYNTHESIS, device=device)
    found = synthesize(tiny(), SHAPE, SYNTHESIS, device=device, execution=OTHERS[name])
    assert torch.equal(expected.labels, found.labels)
    assert found.images.dtype == torch.float32
    gap = (expected.images - found.images).abs().mean() / expected.images.abs().mean()
    assert float(gap) < TOLERANCE[name]


@pytest.mark.parametrize("name", OTHERS)
def test_finetuning_gives_the_same_student(device: torch.device, name: str) -> None:
    start = snapshot(hc.quantize(tiny(), 4, 4))
    expected, found = (snapshot(tuned(device, execution)) for execution in (Execution(), OTHERS[name]))
    for key, value in expected.items():
        if not value.is_floating_point() or key not in start:
            continue
        moved = (value.cpu() - start[key]).abs().max()
        gap = (value - found[key]).abs().max().cpu()
        assert gap <= 0.5 * moved + 1e-7, key  # the same way, if not as far


def test_bf16_computes_convolutions_in_bfloat16_and_statistics_in_float32() -> None:
    dtypes: list[torch.dtype] = []
    network = tiny().requires_grad_(False)
    statistics = BatchStatistics(network, merge=True)
    for module in statistics.model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, a, o: dtypes.append(o.dtype))
    with Execution(precision="bf16").autocast(torch.device("cpu")):
        statistics.model(pictures(16))
    assert dtypes == [torch.bfloat16] * 2
    assert {layer.batch_mean.dtype for layer in statistics.layers} == {torch.float32}


@pytest.mark.parametrize("segments", [1, 7])
def test_checkpointing_recomputes_and_gives_the_same_gradient(segments: int) -> None:
    network = get_model("resnet20_cifar10", pretrained=False).double().eval()
    network.requires_grad_(False)
    x, gradients = torch.randn(2, 3, 32, 32, dtype=torch.float64), []
    for number in (0, segments):
        statistics = BatchStatistics(copy.deepcopy(network), merge=True, segments=number)
        images = x.clone().requires_grad_()
        loss = statistics.model(images).square().sum() + statistics.loss()
        gradients.append(torch.autograd.grad(loss, images)[0])
        statistics.forget()
        assert all(layer.batch_mean is None for layer in statistics.layers)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_checkpointing_lowers_the_peak_of_memory() -> None:
    network = get_model("resnet20_cifar10", pretrained=False).eval().requires_grad_(False)
    peaks = []
    for number in (0, 4):
        statistics = BatchStatistics(copy.deepcopy(network), merge=True, segments=number)
        images = torch.randn(16, 3, 32, 32, requires_grad=True)

        def iteration(statistics: BatchStatistics = statistics, x: Tensor = images) -> None:
            loss = statistics.model(x).square().sum() + statistics.loss()
            torch.autograd.grad(loss, x)

        peaks.append(peak_bytes(iteration, torch.device("cpu")))
    assert peaks[1] < 0.85 * peaks[0]


def test_statistics_of_each_image_are_dropped_after_recomputing() -> None:
    network = get_model("resnet20_cifar10", pretrained=False).eval().requires_grad_(False)
    config = SynthesisConfig(statistics="sample", spread="std", match_reduction="sum")
    peaks, gradients = [], []
    for number in (0, 8):
        execution = Execution(checkpoint_segments=number)
        statistics = BatchStatistics(copy.deepcopy(network), merge=True, segments=number)
        shape, cpu = (16, 3, 32, 32), torch.device("cpu")
        objective = make_objective(statistics, shape, config, execution, cpu)
        step = SynthesisStep(objective, shape, execution, cpu)
        noise = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(3))
        step.start([noise], torch.zeros(16, dtype=torch.int64), "test")
        step()
        assert step.images.grad is not None
        gradients.append(step.images.grad.clone())
        peaks.append(peak_bytes(step, torch.device("cpu")))
        assert not step.matching.samples
    torch.testing.assert_close(gradients[0], gradients[1])
    assert peaks[1] < 0.85 * peaks[0]


@pytest.mark.parametrize(
    ("version", "threads", "refused"),
    [
        ("Intel(R) MKL-DNN v3.12.0 (Git Hash", 1, True),
        ("oneDNN v3.12 (", 1, True),
        ("without", 1, True),
        ("oneDNN v3.11.2", 1, False),
        ("oneDNN v3.120.1", 1, False),
        ("oneDNN v3.12.0", 2, False),
    ],
)
def test_channels_last_refuses_what_onednn_breaks(
    version: str, threads: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.__config__, "show", lambda: f"PyTorch built with:\n  - {version}")
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    execution = Execution(channels_last=True)
    narrow = torch.nn.Sequential(torch.nn.Conv2d(6, 8, 1, stride=2))
    if refused:
        with pytest.raises(ValueError, match="the gradient of '0', a strided 1x1 convolution"):
            execution.network(narrow)
    else:
        execution.network(narrow)
    for fine in (torch.nn.Conv2d(8, 8, 1, stride=2), torch.nn.Conv2d(3, 8, 3, stride=2)):
        assert execution.network(fine).weight.is_contiguous(memory_format=torch.channels_last)


def test_checkpointing_costs_one_more_forward() -> None:
    network = get_model("resnet20_cifar10", pretrained=False)
    choices = Execution(), Execution(checkpoint_segments=4)
    plain, cut = (count(synthesis_iteration(network, (2, 3, 32, 32), execution=execution)) for execution in choices)
    assert plain.by_operator["aten::convolution"] == 21
    assert 21 < cut.by_operator["aten::convolution"] <= 42


test_refusals = refused(
    (lambda: Execution(precision="fp8"), ValueError, "precision is 'fp8'"),
    (lambda: Execution(cuda_graphs="yes"), ValueError, "cuda_graphs is 'yes'"),
    (lambda: Execution(checkpoint_segments=-1), ValueError, "checkpoint_segments is -1"),
    (lambda: Execution(checkpoint_segments=2, merge=False), ValueError, "it needs merge"),
    (
        lambda: BatchStatistics(Branching().eval(), merge=True, segments=2),
        ValueError,
        "cannot be cut in segments .* torch.fx cannot follow",
    ),
)


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_convolution_rules_are_restored(precision: str) -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul

    def state() -> tuple[bool, ...]:
        return cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32

    before = state()
    with convolution_rules(Execution(precision=precision)):
        assert state() == (True, False, precision == "tf32", precision == "tf32")
    assert state() == before


def test_a_run_records_how_it_was_computed(tmp_path: Path) -> None:
    from hast_cuda.methods import Recipe

    recipe = Recipe(SYNTHESIS, FINETUNE)
    arguments = (tiny(), SHAPE, Bits(4, 4))
    options = {"recipe": recipe, "out": tmp_path / "run"}
    zero_shot_quantize(*arguments, **options, execution=Execution(channels_last=True))
    assert '"channels_last": true' in (tmp_path / "run" / "config.json").read_text()
    with pytest.raises(ValueError, match="channels_last"):
        zero_shot_quantize(*arguments, **options)


def test_a_function_is_simply_called_on_the_cpu() -> None:
    calls: list[int] = []
    replayed = Replayed(lambda: calls.append(1), torch.device("cpu"), "on")
    for _ in range(5):
        replayed()
    assert len(calls) == 5
    assert replayed.graph is None
