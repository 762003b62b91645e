from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from networks import CHANNELS, CLASSES, SIZE, same_state, snapshot, tiny, without_batch_norm
from torch import Tensor

from hast_cuda.generator.trainer import Generator, generated_batches
from hast_cuda.merged import BatchStatistics

SHAPE = (CHANNELS, SIZE, SIZE)


def batches(count: int, device: torch.device, seed: int = 0, **changed: Any) -> list[Tensor]:
    arguments: dict[str, Any] = {"teacher": tiny(), "shape": SHAPE, "num_classes": CLASSES}
    stream = generated_batches(
        **arguments | changed, batch_size=16, seed=seed, device=device
    )  # fmt: skip
    return list(itertools.islice(stream, count))


def test_images_fit_the_network(device: torch.device) -> None:
    for images in batches(3, device):
        assert images.shape == (16, *SHAPE)
        assert images.device.type == device.type
        assert images.isfinite().all()
        assert not images.requires_grad


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
    torch.testing.assert_close(
        images.mean((0, 2, 3)), torch.zeros(CHANNELS, device=device), atol=1e-5, rtol=0
    )


def test_large_images_are_conditioned_through_batch_norm() -> None:
    (images,) = batches(1, torch.device("cpu"), shape=(CHANNELS, 68, 68))
    assert images.shape == (16, CHANNELS, 68, 68)


def test_sizes_that_do_not_double_twice() -> None:
    with pytest.raises(ValueError, match="sizes that are multiples of 4, got 8x10"):
        batches(1, torch.device("cpu"), shape=(CHANNELS, 8, 10))


def test_network_without_batch_norm() -> None:
    with pytest.raises(ValueError, match="no BatchNorm layer with running statistics"):
        batches(1, torch.device("cpu"), teacher=without_batch_norm())


def test_a_loss_that_is_not_finite() -> None:
    teacher = tiny()
    teacher.output.weight.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="generator: the loss is not finite from iter"):
        batches(1, torch.device("cpu"), teacher=teacher)
