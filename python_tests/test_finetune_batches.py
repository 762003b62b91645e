"""Where the student's images, labels and ranges come from: stored images or a generator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import CHANNELS, CLASSES, SIZE, pictures, same_state, snapshot, tiny
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.finetune import FinetuneConfig, finetune
from hast_cuda.finetune.batches import GeneratedBatches, StoredBatch, StoredBatches
from hast_cuda.finetune.calibration import calibrate_student
from hast_cuda.finetune.checkpoint import CheckpointFile
from hast_cuda.finetune.objective import loss_weights
from hast_cuda.finetune.step import FinetuneStep, ReplayedStep
from hast_cuda.generator.config import GeneratorConfig
from hast_cuda.generator.trainer import GeneratorTrainer
from hast_cuda.loops.execution import Execution
from hast_cuda.loops.finite import FiniteGuard
from hast_cuda.nn import activation_quantizers
from hast_cuda.ranks import World

CONFIG = FinetuneConfig(  # GDFQ's form of the loss
    iterations=6,
    batch_size=8,
    learning_rate=1e-5,
    evaluations=3,
    distillation_weight=1.0,
    distillation_reduction="mean",
    label_weight=1.0,
    feature_weight=0.0,
    perturbation=0.0,
    calibration="generator",
    calibration_updates=3,
)
SHAPE = (CHANNELS, SIZE, SIZE)
GENERATOR = GeneratorConfig(warmup=5, decay_at=(0.5,))
QIMERA = GeneratorConfig(warmup=5, superpose_probability=0.5, embedding_noise=1.0, latent_size=8)
Records = list[dict[str, Any]]


def trainer(config: GeneratorConfig = GENERATOR, device: torch.device | str = "cpu", size: int = 8) -> GeneratorTrainer:
    return GeneratorTrainer(tiny(), SHAPE, CLASSES, config, batch_size=size, seed=2, device=device)


def ready(generator: GeneratorTrainer, config: FinetuneConfig = CONFIG, bits: int | None = 4) -> nn.Module:
    student = hc.quantize(tiny(), 2, bits).to(generator.device)
    calibrate_student(
        tiny(),
        student,
        None,
        config,
        size=SHAPE,
        num_classes=CLASSES,
        seed=0,
        device=generator.device,
        trainer=generator,
    )
    return student


@pytest.mark.parametrize("chosen", [GENERATOR, QIMERA], ids=["gdfq", "qimera"])
def test_from_a_generator_end_to_end(device: torch.device, chosen: GeneratorConfig) -> None:
    generator, teacher, records = trainer(chosen, device), tiny(), []
    before = snapshot(teacher)
    student = ready(generator)
    assert generator.iteration == chosen.warmup
    start = snapshot(student)
    config = replace(CONFIG, iterations=60, learning_rate=1e-2)
    finetune(teacher, student, generator, config, device=device, log=records.append)
    assert generator.iteration == chosen.warmup + 60
    assert same_state(teacher, before)
    trained = {name for name, _ in student.named_parameters()}
    for name, value in student.state_dict().items():
        assert torch.equal(value, start[name]) == (name not in trained), name
    assert [r["iteration"] for r in records] == [*range(0, 60, 3), 59]
    assert records[-1]["generator"] > 0
    untrained = hc.quantize(tiny(), 2, 4).to(device)
    untrained.load_state_dict(start)
    batches = [generator.step() for _ in range(10)]
    weights = loss_weights(config)
    losses = []
    for network in (untrained.requires_grad_(True), student):
        step = FinetuneStep(tiny(device).requires_grad_(False), network, [], config)
        with torch.no_grad():
            terms = torch.tensor([step.losses(*b, teacher_grad=False) for b in batches])
        losses.append(float(terms.mean(0) @ torch.tensor(weights)))
    assert losses[1] < 0.99 * losses[0]


def test_terms_are_balanced_on_images_that_stay() -> None:
    generator = trainer()
    with pytest.raises(ValueError, match='balance is "start", which needs stored images'):
        finetune(tiny(), ready(generator), generator, replace(CONFIG, balance="start"))


def test_the_generators_rate_follows_the_fine_tuning() -> None:
    generator = trainer()
    finetune(tiny(), ready(generator), generator, CONFIG)
    assert generator.optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)


@pytest.mark.parametrize(("chosen", "flip_fraction"), [(GENERATOR, 0.0), (QIMERA, 0.05)], ids=["gdfq", "qimera + ait"])
def test_a_resumed_run_equals_an_unbroken_one(
    device: torch.device, tmp_path: Path, chosen: GeneratorConfig, flip_fraction: float
) -> None:
    config = replace(CONFIG, flip_fraction=flip_fraction)

    def run(checkpoint: CheckpointFile | None, stop_at: int) -> tuple[nn.Module, GeneratorTrainer]:
        calls = iter(range(100))

        def evaluate(_: nn.Module) -> float:
            if next(calls) == stop_at:
                raise KeyboardInterrupt
            return 1.0

        generator = trainer(chosen, device)
        student = ready(generator)
        finetune(tiny(), student, generator, config, device=device, evaluate=evaluate, checkpoint=checkpoint)
        return student, generator

    (student, generator), file = run(None, -1), CheckpointFile(tmp_path / "last.safetensors")
    with pytest.raises(KeyboardInterrupt):
        run(file, 1)
    resumed, other = run(file, -1)
    assert same_state(resumed, snapshot(student))
    assert other.iteration == generator.iteration == 11
    assert same_state(other.network, snapshot(generator.network))


def test_a_checkpoint_without_the_generator(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "last.safetensors")
    config = replace(CONFIG, label_weight=0.0)
    finetune(tiny(), ready(trainer()), pictures(20), config, checkpoint=file)
    generator = trainer()
    with pytest.raises(ValueError, match="does not fit this run"):
        finetune(tiny(), ready(generator), generator, config, checkpoint=file)


def test_generated_images_are_taken_as_they_are(device: torch.device) -> None:
    generator, twin = trainer(device=device), trainer(device=device)
    batches = GeneratedBatches(generator, CONFIG, World())
    for _, batch in batches.during(range(3)):
        for found, expected in zip(batch.read(), twin.step(), strict=True):
            assert found is not None
            assert torch.equal(found, expected)
    assert batches.metrics() == {"generator": float(generator.loss)}


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_labels_follow_their_images(device: torch.device, kind: str) -> None:
    labels = torch.arange(20) % CLASSES
    if kind == "soft":
        labels = torch.randn(20, CLASSES).softmax(1)
    images, labels = pictures(20).to(device), labels.to(device)
    student = hc.calibrate(hc.quantize(tiny(device), 4, 4), [images]).requires_grad_(True)
    step = FinetuneStep(tiny(device).requires_grad_(False), student, [], CONFIG)
    update, batch = ReplayedStep(step, FiniteGuard("test", device)), StoredBatch(images, 3, labels)
    chosen = torch.tensor([7, 2, 11])
    batch.fill(chosen, torch.tensor([0.0, 0, SIZE, SIZE, 0]).expand(3, 5))
    cropped, found = batch.read()
    assert found is not None
    assert torch.equal(found, labels[chosen.to(device)])
    torch.testing.assert_close(cropped, images[chosen.to(device)])
    expected = step.losses(cropped, found, teacher_grad=False)
    update(batch)
    torch.testing.assert_close(update.terms, tuple(t.detach() for t in expected))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "label_weight is 1.0, which needs labels"),
        (torch.zeros(19, dtype=torch.int64), r"labels is \[19\] torch.int64; expected classes \[20"),
        (torch.zeros(20), r"labels is \[20\] torch.float32; expected classes"),
        (torch.zeros(20, CLASSES, dtype=torch.int64), "expected classes"),
        (torch.full((20,), CLASSES), "labels go from 5 to 5; the network has 5 classes"),
        (torch.full((20,), -1), "labels go from -1 to -1"),
        (torch.zeros(20, 4), "labels has 4 classes per image; the network has 5"),
    ],
)
def test_labels_that_do_not_fit(labels: Tensor | None, message: str) -> None:
    student = hc.calibrate(hc.quantize(tiny(), 4, 4), [pictures(20)])
    with pytest.raises(ValueError, match=message):
        finetune(tiny(), student, pictures(20), CONFIG, labels=labels)


def test_generators_that_do_not_fit() -> None:
    generator = trainer(size=4)
    student = ready(generator)
    with pytest.raises(ValueError, match=r"makes 4 images at a time on cpu; .* takes 8"):
        finetune(tiny(), student, generator, CONFIG)
    with pytest.raises(ValueError, match="labels belong to stored images"):
        finetune(tiny(), student, trainer(), CONFIG, labels=torch.zeros(8, dtype=torch.int64))


def test_the_last_images_of_the_warm_up_set_the_ranges() -> None:
    student, twin = ready(trainer()), trainer()
    for _ in range(2):
        twin.step()
    expected = hc.calibrate(hc.quantize(tiny(), 2, 4), [twin.step()[0] for _ in range(3)])
    for name, quantizer in activation_quantizers(student).items():
        state = activation_quantizers(expected)[name].range_state
        assert torch.equal(quantizer.range_state, state)
        assert not quantizer.observing


def test_a_student_without_ranges_still_gets_a_trained_generator() -> None:
    generator = trainer()
    ready(generator, replace(CONFIG, calibration_updates=500), bits=None)
    assert generator.iteration == GENERATOR.warmup


def test_the_warm_up_computes_as_the_run_does(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, seen = trainer(), []
    step = generator.step

    def noted() -> tuple[Tensor, Tensor]:
        seen.append(torch.backends.cuda.matmul.allow_tf32)
        return step()

    monkeypatch.setattr(generator, "step", noted)
    calibrate_student(
        tiny(),
        hc.quantize(tiny(), 2, 4),
        None,
        CONFIG,
        size=SHAPE,
        num_classes=CLASSES,
        seed=0,
        device=generator.device,
        trainer=generator,
        execution=Execution(precision="tf32"),
    )
    assert seen == [True] * GENERATOR.warmup


def test_calibrations_that_cannot_be() -> None:
    for changed, message in (
        ({"calibration": "images"}, 'calibration is "images", but the images come from a generator'),
        ({"calibration_updates": 6}, "calibration_updates is 6, .* warmup has only 5 iterations"),
    ):
        generator = trainer()
        with pytest.raises(ValueError, match=message):
            ready(generator, replace(CONFIG, **changed))
        assert generator.iteration == 0


def test_mixed_images_are_means_of_two_whatever_the_number_of_processes() -> None:
    """The first of a batch, of the crops as they come; shares of processes join to the batch of one."""
    images = pictures(10)
    config = replace(CONFIG, label_weight=0.0, batch_size=6, mix=0.5)

    def batches(config: FinetuneConfig, rank: int = 0, size: int = 1) -> list[Tensor]:
        world = World(rank, size, torch.device("cpu"))
        stored = StoredBatches(images, None, config, 3, world)
        return [batch.read()[0].clone() for _, batch in stored.during(range(3))]

    plain, mixed = batches(replace(config, mix=0.0)), batches(config)
    assert [len(batch) for batch in plain] == [6, 4, 6]
    for before, after in zip(plain, mixed, strict=True):
        half = len(before) // 2
        torch.testing.assert_close(after[:half], ((before + before.roll(1, 0)) / 2)[:half])
        assert torch.equal(after[half:], before[half:])
        assert not torch.equal(after[:half], before[:half])
    shares = zip(*(batches(config, rank, 4) for rank in range(4)), strict=True)
    for whole, parts in zip(mixed, shares, strict=True):
        torch.testing.assert_close(torch.cat(parts), whole)


def test_means_have_no_label() -> None:
    with pytest.raises(ValueError, match="mix makes images that have no label"):
        replace(CONFIG, mix=0.5)
