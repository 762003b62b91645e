"""What is drawn at random for the images: labels, first pixels, soft targets."""

from __future__ import annotations

import torch
from torch import Tensor

from hast_cuda.seeding import generator
from hast_cuda.synthesis.config import SynthesisConfig

# ZeroQ's published code divides integers in +-127.5 by 5418.75, a variance where a standard
# deviation was meant.
NARROW = 127.5 / 5418.75


def draw_labels(config: SynthesisConfig, num_classes: int, seed: int) -> Tensor:
    """[num_images] int64 labels: uniform draws, or equal counts in random order if balanced."""
    random = generator(seed, "labels")
    if not config.balanced_labels:
        return torch.randint(num_classes, (config.num_images,), generator=random)
    return torch.arange(config.num_images)[
        torch.randperm(config.num_images, generator=random)
    ].remainder(num_classes)


def draw_noise(
    config: SynthesisConfig, shape: tuple[int, int, int, int], seed: int, batch: int
) -> Tensor:
    """Where the images of one batch start, as ``config.noise`` says; ``shape`` float32."""
    random = generator(seed, "noise", batch)
    if config.noise == "gaussian":
        return torch.randn(shape, generator=random)
    draws = torch.rand(shape, generator=random)
    return draws if config.noise == "uniform" else NARROW * (2 * draws - 1)


def draw_targets(config: SynthesisConfig, count: int, seed: int, batch: int) -> Tensor:
    """IntraQ's targets of p_y: 1 for half of the images on average, else U(soft_target, 1).

    Returns:
        [count] float32.
    """
    hard, soft = torch.rand(2, count, generator=generator(seed, "targets", batch))
    return torch.where(hard < 0.5, 1.0, config.soft_target + (1 - config.soft_target) * soft)
