"""Algorithm 1, first half: noise becomes hard images of the teacher's data."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from tqdm import tqdm

from hast_cuda.augment import random_crop_flip
from hast_cuda.failures import FiniteGuard
from hast_cuda.nn import BatchStatistics
from hast_cuda.ops import hard_sample_loss
from hast_cuda.seeding import deterministic_convolutions, generator
from hast_cuda.synthesis.config import SynthesisConfig
from hast_cuda.synthesis.schedule import CosineSchedule, PlateauSchedule, Schedule
from hast_cuda.synthesis.store import ImageStore, SyntheticImages

if TYPE_CHECKING:
    from typing_extensions import Never

LOG_EVERY = 50  # iterations between reads of the device
Log = Callable[[dict[str, float | int | str]], None]


@dataclass(frozen=True)
class ImageShape:
    """What the teacher takes, [channels, height, width], and gives, ``num_classes`` logits."""

    channels: int
    height: int
    width: int
    num_classes: int


def draw_labels(config: SynthesisConfig, num_classes: int, seed: int) -> Tensor:
    """[num_images] int64 labels: uniform draws, or equal counts in random order if balanced."""
    random = generator(seed, "labels")
    if not config.balanced_labels:
        return torch.randint(num_classes, (config.num_images,), generator=random)
    return torch.arange(config.num_images)[
        torch.randperm(config.num_images, generator=random)
    ].remainder(num_classes)


def make_schedule(config: SynthesisConfig, device: torch.device) -> Schedule:
    """The learning-rate schedule that ``config`` names."""
    minimum = min(config.min_learning_rate, config.learning_rate)
    if config.schedule == "plateau":
        return PlateauSchedule(
            config.learning_rate, patience=config.patience, minimum=minimum, device=device
        )
    return CosineSchedule(config.learning_rate, config.iterations, minimum=minimum, device=device)


def synthesize_batch(
    statistics: BatchStatistics, labels: Tensor, shape: ImageShape, config: SynthesisConfig,
    seed: int, batch: int, log: Log, progress: tqdm[Never],
) -> Tensor:  # fmt: skip
    """Optimise one batch of noise by Eq. 9; [N, C, H, W] float32 on the device of ``labels``.

    Raises:
        FloatingPointError: the loss stopped being finite; names the batch and the iteration.
    """
    device = labels.device
    noise = torch.randn(
        len(labels), shape.channels, shape.height, shape.width,
        generator=generator(seed, "noise", batch),
    )  # fmt: skip
    images = noise.to(device).requires_grad_()
    coin, random = generator(seed, "coin", batch), generator(seed, "crop", batch, device=device)
    schedule = make_schedule(config, device)
    optimizer = torch.optim.Adam([images], lr=schedule.rate, fused=True)
    guard = FiniteGuard(f"synthesis of batch {batch}", device)

    for iteration in range(config.iterations):
        x: Tensor = images
        if config.augment_probability and (
            torch.rand((), generator=coin).item() < config.augment_probability
        ):
            x = random_crop_flip(images, config.crop_scale, random)
        logits = statistics.model(x)
        match = statistics.loss(config.match_reduction)  # Eq. 3
        label, difficulty = hard_sample_loss(  # Eq. 8
            logits, labels, config.difficulty_exponent, detach=config.detach_difficulty
        )
        loss = match + config.label_weight * label  # Eq. 9
        (images.grad,) = torch.autograd.grad(loss, images)
        optimizer.step()
        schedule.step(loss)
        match, label, loss = match.detach(), label.detach(), loss.detach()
        guard.observe(loss, iteration)
        progress.update()
        if iteration % LOG_EVERY == 0 or iteration == config.iterations - 1:
            guard.check()
            log({
                "phase": "synthesis", "batch": batch, "iteration": iteration,
                "loss": float(loss), "match": float(match), "label": float(label),
                "difficulty": float(difficulty),
                "learning_rate": float(schedule.learning_rate),
            })  # fmt: skip
    guard.check(images)
    return images.detach()


def _stored(store: ImageStore, index: int, labels: Tensor, shape: ImageShape) -> Tensor:
    """Images of a batch made before; ValueError if they are not those of this run."""
    batch, expected = store.load(index), (len(labels), shape.channels, shape.height, shape.width)
    if tuple(batch.images.shape) != expected or not torch.equal(batch.labels, labels):
        message = (
            f"shard {store.path(index)} belongs to another run: its images are "
            f"{list(batch.images.shape)} (here {list(expected)}) or its labels differ; give "
            "another directory, or the options it was made with"
        )
        raise ValueError(message)
    return batch.images


@deterministic_convolutions()
def synthesize(
    teacher: nn.Module, shape: ImageShape, config: SynthesisConfig, *, seed: int = 0,
    device: torch.device | str = "cpu", store: ImageStore | None = None,
    log: Log = lambda _: None,
) -> SyntheticImages:  # fmt: skip
    """Make ``config.num_images`` images from ``teacher`` alone (Algorithm 1, first loop).

    Args:
        teacher: pretrained network with BatchNorm; copied, never edited.
        shape: its input and number of classes.
        config: budget and objective.
        seed: every batch has its own stream derived from it, so batches do not depend on each
            other.
        device: where to compute.
        store: keeps each finished batch; finished batches found there are not made again.
        log: called with a dict of figures every 50 iterations.

    Returns:
        Images [N, C, H, W] float32 in the teacher's input space and labels [N] int64, on the CPU.

    Raises:
        ValueError: no BatchNorm, or a store of another run. FloatingPointError: a loss that is
            not finite.
    """
    device = torch.device(device)
    frozen = copy.deepcopy(teacher).to(device).eval().requires_grad_(False)
    statistics = BatchStatistics(frozen)
    labels = draw_labels(config, shape.num_classes, seed)
    batches = labels.split(config.batch_size)
    found = set() if store is None else store.finished()
    results: dict[int, Tensor] = {}
    with tqdm(
        total=len(batches) * config.iterations, desc="synthesis", unit="it", disable=None
    ) as progress:
        for index, batch_labels in enumerate(batches):
            if store is not None and index in found:
                results[index] = _stored(store, index, batch_labels, shape)
                progress.update(config.iterations)
                continue
            images = synthesize_batch(
                statistics, batch_labels.to(device), shape, config, seed, index, log, progress
            ).cpu()
            results[index] = images
            if store is not None:
                store.save(index, SyntheticImages(images, batch_labels))
    return SyntheticImages(torch.cat([results[i] for i in range(len(batches))]), labels)
