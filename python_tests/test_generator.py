from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from networks import CHANNELS, CLASSES, SIZE, same_state, snapshot, tiny
from torch import Tensor, nn

from hast_cuda.generator import GeneratorConfig, GeneratorTrainer
from hast_cuda.generator.network import ConditionalBatchNorm2d, Generator, soft_labels
from hast_cuda.merged import BatchStatistics

SHAPE = (CHANNELS, SIZE, SIZE)
QIMERA = GeneratorConfig(latent_size=6, warmup=4, superpose_probability=0.5, superpose_classes=3, embedding_noise=1.0)


def trainer(config: GeneratorConfig = QIMERA, **changed: object) -> GeneratorTrainer:
    return GeneratorTrainer(
        tiny(),
        SHAPE,
        CLASSES,
        config,
        batch_size=8,
        seed=3,
        **changed,  # type: ignore[arg-type]
    )


def batches(
    count: int,
    device: torch.device,
    seed: int = 0,
    teacher: nn.Module | None = None,
    shape: tuple[int, int, int] = SHAPE,
) -> list[Tensor]:
    made = GeneratorTrainer(teacher or tiny(), shape, CLASSES, batch_size=16, seed=seed, device=device)
    return list(itertools.islice(made.batches(), count))


def test_training_brings_the_statistics_closer(device: torch.device) -> None:
    teacher = tiny()
    teacher.output.weight.data.zero_()  # labels teach nothing
    statistics, losses = BatchStatistics(tiny(device)), []
    for images in batches(40, device, teacher=teacher):
        with torch.no_grad():
            statistics.model(images)
            losses.append(statistics.loss().item())
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_a_seed_decides_every_image() -> None:
    cpu = torch.device("cpu")
    first, again, other = (batches(2, cpu, seed)[-1] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_it_trains_where_gradients_are_off_and_leaves_no_trace(device: torch.device) -> None:
    teacher = tiny()
    before, state = snapshot(teacher), torch.random.get_rng_state()
    with torch.no_grad():
        first, second = batches(2, device, teacher=teacher)
        assert not torch.is_grad_enabled()
    assert not torch.equal(first, second)
    assert same_state(teacher, before)
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("conditional", [False, True])
def test_labels_steer_the_images(device: torch.device, conditional: bool) -> None:
    network = Generator(CHANNELS, SIZE, 12, CLASSES, conditional_norm=conditional).to(device)
    for name, parameter in network.named_parameters():
        if "scale" in name:
            torch.nn.init.normal_(parameter)
    noise = torch.randn(4, 100, device=device)
    labels = torch.arange(4, device=device)
    images, others = network(noise, labels), network(noise, labels + 1)
    assert images.shape == (4, CHANNELS, SIZE, 12)
    assert not torch.equal(images, others)
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(CHANNELS, device=device), atol=1e-5, rtol=0)


def test_large_images_are_conditioned_through_batch_norm() -> None:
    (images,) = batches(1, torch.device("cpu"), shape=(CHANNELS, 68, 68))
    assert images.shape == (16, CHANNELS, 68, 68)


def test_sizes_that_do_not_double_twice() -> None:
    with pytest.raises(ValueError, match="sizes that are multiples of 4, got 8x10"):
        batches(1, torch.device("cpu"), shape=(CHANNELS, 8, 10))


def test_a_loss_that_is_not_finite() -> None:
    teacher = tiny()
    teacher.output.weight.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="generator: the loss is not finite from iter"):
        batches(1, torch.device("cpu"), teacher=teacher)


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
