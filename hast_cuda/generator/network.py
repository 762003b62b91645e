"""Conditional image generator of GDFQ, and its latents of superposed classes (Qimera)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDE_EPS = 0.8  # the published code passes it where momentum was meant; kept, it shapes the images


def check_places(batch_size: int, height: int, width: int) -> None:
    """ValueError unless a generator can grow ``batch_size`` images of this size."""
    if height % 4 or width % 4:
        raise ValueError(f"the generator needs sizes that are multiples of 4, got {height}x{width}")
    if batch_size * (height // 4) * (width // 4) == 1:
        raise ValueError(
            "batch_size is 1 and images are 4 x 4: the generator's first BatchNorm would have "
            "one value per channel, whose variance is 0; make 2 images at a time or more"
        )


def soft_labels(labels: Tensor, weights: Tensor, num_classes: int) -> Tensor:
    """Probabilities [N, classes]: the ``weights`` [N, K] of ``labels`` [N, K], summed by class."""
    # compared, not scattered: atomic additions on CUDA have no fixed order
    classes = torch.arange(num_classes, device=labels.device)
    return (weights[:, :, None] * (labels[:, :, None] == classes)).sum(1)


class ConditionalBatchNorm2d(nn.Module):
    """BatchNorm with a scale and shift per class [N], weighed by probabilities [N, classes]."""

    def __init__(self, channels: int, num_classes: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps, affine=False)
        self.scale, self.shift = (nn.Embedding(num_classes, channels) for _ in range(2))
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Normalise, then scale and shift by class."""
        if labels.dim() == 1:
            scale, shift = self.scale(labels), self.shift(labels)
        else:
            # The weighted sum. The published code of Qimera takes the mean of the weighted terms,
            # which makes superposed classes K times weaker than single ones.
            scale, shift = labels @ self.scale.weight, labels @ self.shift.weight
        result: Tensor = self.norm(x) * scale[:, :, None, None] + shift[:, :, None, None]
        return result


class Generator(nn.Module):
    """Noise and labels -> images [N, C, H, W], normalised per channel; H and W multiples of 4.

    ``conditional_norm`` conditions through BatchNorm too (large images). ``embedding`` [classes, D]
    starts the class embeddings, else N(0, 1); with ``embedding_noise`` 0 the latent is embedding
    times noise (GDFQ; the noise alone with ``conditional_norm``), else the standardised sum of
    embedding and this times noise (Qimera). Without classes (0) the noise alone is the latent.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        num_classes: int,
        latent_size: int = 100,
        embedding_noise: float = 0.0,
        embedding: Tensor | None = None,
        *,
        conditional_norm: bool,
    ) -> None:
        super().__init__()
        self.num_classes, self.embedding_noise = num_classes, embedding_noise
        self.small = (128, height // 4, width // 4)
        self.embedding: nn.Embedding | None = None
        if num_classes and (not conditional_norm or embedding_noise or embedding is not None):
            self.embedding = nn.Embedding(num_classes, latent_size)
            if embedding is not None:
                self.embedding.weight.data.copy_(embedding)
        self.project = nn.Linear(latent_size, 128 * (height // 4) * (width // 4))
        self.convs = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in ((128, 128), (128, 64), (64, channels)))
        self.conditional_norm = conditional_norm
        classes = num_classes if conditional_norm else 0
        wide = WIDE_EPS if num_classes else 1e-5
        sizes = (128, 1e-5), (128, wide), (64, wide)
        self.norms = nn.ModuleList(
            ConditionalBatchNorm2d(c, classes, eps) if classes else nn.BatchNorm2d(c, eps) for c, eps in sizes
        )
        self.output_norm = nn.BatchNorm2d(channels, affine=False)

    def _norm(self, index: int, x: Tensor, labels: Tensor | None) -> Any:
        return self.norms[index](x, labels) if self.conditional_norm else self.norms[index](x)

    def latent(self, noise: Tensor, labels: Tensor | None, weights: Tensor | None = None) -> Tensor:
        """[N, D] that the images grow from; see :meth:`forward` for the arguments."""
        if self.embedding is None or labels is None:
            return noise
        classes: Tensor = self.embedding(labels)
        if not self.embedding_noise:
            latent = noise * classes
        else:
            latent = classes + self.embedding_noise * noise
            # As published: over the features of each sample, but where classes are superposed over
            # samples and features, for each of the K places.
            if weights is None:
                latent = F.layer_norm(latent, latent.shape[-1:])
            else:
                latent = F.batch_norm(latent, None, None, training=True)
        return latent if weights is None else (weights[:, :, None] * latent).sum(1)

    def forward(self, noise: Tensor, labels: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
        """Images of labels [N] from noise [N, D]; of K classes: [N, K], [N, K, D], [N, K]."""
        latent = self.latent(noise, labels, weights)
        if weights is not None and labels is not None:
            labels = soft_labels(labels, weights, self.num_classes)
        x = self._norm(0, self.project(latent).unflatten(1, self.small), labels)
        for index in (0, 1):
            x = self.convs[index](F.interpolate(x, scale_factor=2))
            x = F.leaky_relu(self._norm(index + 1, x, labels), 0.2)
        result: Tensor = self.output_norm(torch.tanh(self.convs[2](x)))
        return result
