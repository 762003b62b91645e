"""Conditional image generator of GDFQ, trained on the teacher's statistics while it is used."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hast_cuda.failures import FiniteGuard
from hast_cuda.nn import BatchStatistics
from hast_cuda.seeding import derive_seed, generator

LATENT = 100
MATCH_WEIGHT = 0.1  # of the BatchNorm loss beside the cross entropy
WIDE_EPS = 0.8  # the published code passes it where momentum was meant; kept, it shapes the images


class ConditionalBatchNorm2d(nn.Module):
    """BatchNorm with one scale and shift per class; [N, C, H, W] and labels [N] -> [N, C, H, W]."""

    def __init__(self, channels: int, num_classes: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps, affine=False)
        self.scale, self.shift = (
            nn.Embedding(num_classes, channels),
            nn.Embedding(num_classes, channels),
        )
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Normalise, then scale and shift by class."""
        scale, shift = self.scale(labels), self.shift(labels)
        result: Tensor = self.norm(x) * scale[:, :, None, None] + shift[:, :, None, None]
        return result


class Generator(nn.Module):
    """Noise [N, 100] and labels [N] -> images [N, C, H, W], normalised per channel.

    Args:
        channels: of the images.
        height: of the images, a multiple of 4; ``width`` likewise.
        num_classes: of the labels.
        conditional_norm: condition through BatchNorm (large images) instead of the latent vector.
    """

    def __init__(
        self, channels: int, height: int, width: int, num_classes: int, *, conditional_norm: bool
    ) -> None:
        super().__init__()
        if height % 4 or width % 4:
            message = f"the generator needs sizes that are multiples of 4, got {height}x{width}"
            raise ValueError(message)
        self.small = (128, height // 4, width // 4)
        self.embedding = None if conditional_norm else nn.Embedding(num_classes, LATENT)
        self.project = nn.Linear(LATENT, 128 * (height // 4) * (width // 4))
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 3, padding=1) for i, o in ((128, 128), (128, 64), (64, channels))
        )
        self.norms = nn.ModuleList(
            ConditionalBatchNorm2d(c, num_classes, eps)
            if conditional_norm
            else nn.BatchNorm2d(c, eps)
            for c, eps in ((128, 1e-5), (128, WIDE_EPS), (64, WIDE_EPS))
        )
        self.output_norm = nn.BatchNorm2d(channels, affine=False)

    def _norm(self, index: int, x: Tensor, labels: Tensor) -> Tensor:
        norm = self.norms[index]
        result: Tensor = norm(x) if self.embedding is not None else norm(x, labels)
        return result

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Images of ``labels``."""
        if self.embedding is not None:
            noise = noise * self.embedding(labels)
        x = self._norm(0, self.project(noise).unflatten(1, self.small), labels)
        for index in (0, 1):
            x = self.convs[index](F.interpolate(x, scale_factor=2))
            x = F.leaky_relu(self._norm(index + 1, x, labels), 0.2)
        result: Tensor = self.output_norm(torch.tanh(self.convs[2](x)))
        return result


def generated_batches(
    teacher: nn.Module, shape: tuple[int, int, int], num_classes: int, batch_size: int, *,
    seed: int, device: torch.device,
) -> Iterator[Tensor]:  # fmt: skip
    """Endless images [batch_size, C, H, W] of a generator that takes one training step per batch.

    Loss: cross entropy of the teacher on the wanted labels + 0.1 * Eq. 3; Adam, rate 1e-3.

    Raises:
        FloatingPointError: the loss is not finite. ValueError: no BatchNorm, sizes not multiples of
            4.
    """
    statistics = BatchStatistics(copy.deepcopy(teacher).to(device).eval().requires_grad_(False))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed(seed, "generator weights"))
        network = Generator(*shape, num_classes, conditional_norm=min(shape[1:]) > 64).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.5, 0.999))
    random = generator(seed, "generator noise", device=device)
    guard, iteration = FiniteGuard("calibration generator", device), 0
    while True:
        with torch.enable_grad():
            noise = torch.randn(batch_size, LATENT, generator=random, device=device)
            labels = torch.randint(num_classes, (batch_size,), generator=random, device=device)
            images = network(noise, labels)
            loss = F.cross_entropy(statistics.model(images), labels)
            loss = loss + MATCH_WEIGHT * statistics.loss()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        guard.observe(loss)
        iteration += 1
        if iteration % 50 == 1:
            guard.check(iteration)
        yield images.detach()
