from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import CHANNELS, CLASSES, SIZE, tiny

import hast_cuda as hc
from hast_cuda.finetune import FinetuneConfig, finetune
from hast_cuda.finetune.calibration import calibrate_student
from hast_cuda.finetune.checkpoint import CheckpointFile
from hast_cuda.generator import GeneratorConfig, GeneratorTrainer
from hast_cuda.generator.network import ConditionalBatchNorm2d, Generator, soft_labels

SHAPE = (CHANNELS, SIZE, SIZE)
QIMERA = GeneratorConfig(
    latent_size=6, warmup=4, superpose_probability=0.5, superpose_classes=3, embedding_noise=1.0
)
CONFIG = FinetuneConfig(
    iterations=6, batch_size=8, evaluations=3, label_weight=1.0, distillation_reduction="mean",
    feature_weight=0.0, perturbation=0.0, learning_rate=1e-3, calibration="generator",
    calibration_updates=2,
)  # fmt: skip
CPU = torch.device("cpu")


def trainer(config: GeneratorConfig = QIMERA, **changed: object) -> GeneratorTrainer:
    return GeneratorTrainer(
        tiny(), SHAPE, CLASSES, config, batch_size=8, seed=3, **changed,  # type: ignore[arg-type]
    )  # fmt: skip


def test_soft_labels_by_hand() -> None:
    labels, weights = torch.tensor([[0, 2], [1, 1]]), torch.tensor([[0.25, 0.75], [0.4, 0.6]])
    expected = torch.tensor([[0.25, 0, 0.75], [0, 1.0, 0]])
    torch.testing.assert_close(soft_labels(labels, weights, 3), expected)


def test_labels_are_probabilities_where_classes_superpose() -> None:
    kinds, made = set(), trainer()
    for _ in range(12):
        images, labels = made.step()
        assert images.shape == (8, *SHAPE)
        torch.testing.assert_close(labels.sum(1), torch.ones(8))
        kinds.add(bool((labels.max(1).values < 0.999).any()))
    assert kinds == {True, False}  # some batches superpose, some do not
    assert trainer(replace(QIMERA, superpose_probability=0.0)).step()[1].dtype == torch.int64


def test_one_weight_alone_is_the_single_class() -> None:
    network = Generator(*SHAPE, CLASSES, conditional_norm=False, latent_size=6)
    noise, labels = torch.randn(4, 6), torch.arange(4)
    single = network.latent(noise, labels)
    alone = network.latent(noise[:, None], labels[:, None], torch.ones(4, 1))
    torch.testing.assert_close(single, alone)


def test_superposed_norm_is_the_weighted_sum() -> None:
    norm = ConditionalBatchNorm2d(2, CLASSES, 1e-5)
    torch.nn.init.normal_(norm.scale.weight)
    torch.nn.init.normal_(norm.shift.weight)
    x, weights = torch.randn(3, 2, 4, 4), torch.softmax(torch.randn(3, CLASSES), 1)
    parts = [norm(x, torch.full((3,), k)) * weights[:, k, None, None, None] for k in range(CLASSES)]
    torch.testing.assert_close(norm(x, weights), torch.stack(parts).sum(0))


def test_classifier_rows_start_the_embedding() -> None:
    made = trainer(replace(QIMERA, embedding="classifier"))
    assert made.network.embedding is not None
    assert torch.equal(made.network.embedding.weight, tiny().output.weight)


def test_state_goes_on_as_if_never_stopped() -> None:
    unbroken = trainer()
    for _ in range(3):
        unbroken.step()
    again = trainer()
    again.load_state({k: v.clone() for k, v in unbroken.state().items()})
    for _ in range(3):
        (a, labels), (b, others) = unbroken.step(), again.step()
        assert torch.equal(a, b)
        assert torch.equal(labels, others)


def run(
    config: FinetuneConfig, checkpoint: Path | None, stop_at: int | None = None
) -> torch.Tensor:
    made, student = trainer(), hc.quantize(tiny(), 3, 3)
    calibrate_student(tiny(), student, made, config, num_classes=CLASSES, seed=0, device=CPU)
    calls = iter(range(1, 100))

    def evaluate(_: torch.nn.Module) -> float:
        if next(calls) == stop_at:
            raise KeyboardInterrupt
        return 0.0

    file = None if checkpoint is None else CheckpointFile(checkpoint)
    finetune(tiny(), student, made, config, evaluate=evaluate, checkpoint=file)
    return torch.cat([p.detach().flatten() for p in student.parameters()])


@pytest.mark.parametrize("flip_fraction", [0.0, 0.05])
def test_resumed_equals_unbroken(tmp_path: Path, flip_fraction: float) -> None:
    config = replace(CONFIG, flip_fraction=flip_fraction)
    expected = run(config, None)
    path = tmp_path / "last.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(config, path, stop_at=2)
    assert path.exists()
    assert torch.equal(run(config, path), expected)
    start = torch.cat([p.detach().flatten() for p in tiny().parameters()])
    assert not torch.equal(expected, start)


def test_warmup_is_long_enough_for_the_ranges() -> None:
    with pytest.raises(ValueError, match="calibration_updates is 5, but the generator's warmup"):
        run(replace(CONFIG, calibration_updates=5), None)


def test_batch_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="the generator makes 8 images at a time"):
        run(replace(CONFIG, batch_size=4), None)


def test_rates_decay() -> None:
    config = GeneratorConfig(learning_rate=1.0, decay_at=(0.25, 0.5))
    assert [config.rate(d) for d in (0.0, 0.24, 0.25, 0.6)] == pytest.approx([1, 1, 0.1, 0.01])
