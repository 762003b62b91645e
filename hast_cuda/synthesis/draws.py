"""What is drawn at random for the images: labels, first pixels, soft targets."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hast_cuda.loops.seeding import generator
from hast_cuda.synthesis.config import SynthesisConfig

# ZeroQ's published code divides integers in +-127.5 by 5418.75, a variance where a standard
# deviation was meant.
NARROW = 127.5 / 5418.75

# Photographs have spectra that fall like 1/frequency and channels that go together.
CHANNEL_CORRELATION = 0.8


def draw_labels(config: SynthesisConfig, num_classes: int, seed: int) -> Tensor:
    """[num_images] int64 labels: uniform draws, or equal counts in random order if balanced; without classes 0."""
    if not num_classes:
        return torch.zeros(config.num_images, dtype=torch.int64)
    random = generator(seed, "labels")
    if not config.balanced_labels:
        return torch.randint(num_classes, (config.num_images,), generator=random)
    return torch.arange(config.num_images)[torch.randperm(config.num_images, generator=random)].remainder(num_classes)


def draw_noise(config: SynthesisConfig, shape: tuple[int, int, int, int], seed: int, batch: int) -> Tensor:
    """Where the images of one batch start, as ``config.noise`` says; ``shape`` float32."""
    random = generator(seed, "noise", batch)
    if config.noise == "gaussian":
        return torch.randn(shape, generator=random)
    if config.noise == "natural":
        return _natural(shape, random)
    draws = torch.rand(shape, generator=random)
    return draws if config.noise == "uniform" else NARROW * (2 * draws - 1)


def _natural(shape: tuple[int, int, int, int], random: torch.Generator) -> Tensor:
    """N(0, 1) of amplitudes ``1 / max(f, 1/max(H, W))``, f in cycles per pixel.

    ``sqrt(r) s + sqrt(1 - r) y_c`` with s for all channels and ``r = CHANNEL_CORRELATION``.
    """
    count, channels, height, width = shape
    white = torch.randn(count, channels + 1, height, width, generator=random)
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None]
    amplitudes = 1 / torch.hypot(rows, columns).clamp(min=1 / max(height, width))
    amplitudes = amplitudes / amplitudes.square().mean().sqrt()
    half = amplitudes[:, : width // 2 + 1]
    coloured: Tensor = torch.fft.irfft2(torch.fft.rfft2(white) * half, s=(height, width))
    shared, own = coloured[:, :1], coloured[:, 1:]
    return math.sqrt(CHANNEL_CORRELATION) * shared + math.sqrt(1 - CHANNEL_CORRELATION) * own


def draw_targets(config: SynthesisConfig, count: int, seed: int, batch: int) -> Tensor:
    """IntraQ's targets of p_y, [count]: 1 for half of them on average, else U(soft_target, 1)."""
    hard, soft = torch.rand(2, count, generator=generator(seed, "targets", batch))
    return torch.where(hard < 0.5, 1.0, config.soft_target + (1 - config.soft_target) * soft)
