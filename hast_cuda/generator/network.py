"""Conditional image generator of GDFQ, and its latents of superposed classes (Qimera)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDE_EPS = 0.8  # the published code passes it where momentum was meant; kept, it shapes the images


def soft_labels(labels: Tensor, weights: Tensor, num_classes: int) -> Tensor:
    """Probabilities [N, classes]: the ``weights`` [N, K] of ``labels`` [N, K], summed by class."""
    # compared, not scattered: atomic additions on CUDA have no fixed order
    classes = torch.arange(num_classes, device=labels.device)
    return (weights[:, :, None] * (labels[:, :, None] == classes)).sum(1)


class ConditionalBatchNorm2d(nn.Module):
    """BatchNorm with one scale and shift per class; [N, C, H, W] -> [N, C, H, W].

    Labels are classes [N], or probabilities [N, classes] that weigh the classes' scales and shifts.
    """

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
        if labels.dim() == 1:
            scale, shift = self.scale(labels), self.shift(labels)
        else:
            # The weighted sum. The published code of Qimera takes the mean of the weighted terms,
            # which makes superposed classes K times weaker than single ones.
            scale, shift = labels @ self.scale.weight, labels @ self.shift.weight
        result: Tensor = self.norm(x) * scale[:, :, None, None] + shift[:, :, None, None]
        return result


class Generator(nn.Module):
    """Noise and labels -> images [N, C, H, W], normalised per channel.

    Args:
        channels: of the images.
        height: of the images, a multiple of 4; ``width`` likewise.
        num_classes: of the labels.
        conditional_norm: condition through BatchNorm too (large images).
        latent_size: length D of the noise vector.
        embedding_noise: 0: embedding times noise (GDFQ; with ``conditional_norm`` the noise alone);
            else the latent is the standardised sum of embedding and this times noise (Qimera).
        embedding: [classes, D] to start the class embeddings from; default N(0, 1).
    """

    def __init__(
        self, channels: int, height: int, width: int, num_classes: int, *, conditional_norm: bool,
        latent_size: int = 100, embedding_noise: float = 0.0, embedding: Tensor | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if height % 4 or width % 4:
            message = f"the generator needs sizes that are multiples of 4, got {height}x{width}"
            raise ValueError(message)
        self.num_classes, self.embedding_noise = num_classes, embedding_noise
        self.small = (128, height // 4, width // 4)
        self.embedding: nn.Embedding | None = None
        if not conditional_norm or embedding_noise or embedding is not None:
            self.embedding = nn.Embedding(num_classes, latent_size)
            if embedding is not None:
                self.embedding.weight.data.copy_(embedding)
        self.project = nn.Linear(latent_size, 128 * (height // 4) * (width // 4))
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 3, padding=1) for i, o in ((128, 128), (128, 64), (64, channels))
        )
        self.conditional_norm = conditional_norm
        self.norms = nn.ModuleList(
            ConditionalBatchNorm2d(c, num_classes, eps)
            if conditional_norm
            else nn.BatchNorm2d(c, eps)
            for c, eps in ((128, 1e-5), (128, WIDE_EPS), (64, WIDE_EPS))
        )
        self.output_norm = nn.BatchNorm2d(channels, affine=False)

    def _norm(self, index: int, x: Tensor, labels: Tensor) -> Tensor:
        norm = self.norms[index]
        result: Tensor = norm(x, labels) if self.conditional_norm else norm(x)
        return result

    def latent(self, noise: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """[N, D] that the images grow from; see :meth:`forward` for the arguments."""
        if self.embedding is None:
            return noise
        classes: Tensor = self.embedding(labels)
        if not self.embedding_noise:
            latent = noise * classes
        else:
            latent = classes + self.embedding_noise * noise
            # As published: over the features of each sample, but where classes are superposed over
            # samples and features, for each of the K places.
            latent = (
                F.layer_norm(latent, latent.shape[-1:])
                if weights is None
                else F.batch_norm(latent, None, None, training=True)
            )
        return latent if weights is None else (weights[:, :, None] * latent).sum(1)

    def forward(self, noise: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Images of ``labels``.

        Args:
            noise: [N, D], or [N, K, D] with K superposed classes and an embedding.
            labels: [N], or [N, K], int64.
            weights: [N, K] of the superposed classes, or None.
        """
        latent = self.latent(noise, labels, weights)
        if weights is not None:
            labels = soft_labels(labels, weights, self.num_classes)
        x = self._norm(0, self.project(latent).unflatten(1, self.small), labels)
        for index in (0, 1):
            x = self.convs[index](F.interpolate(x, scale_factor=2))
            x = F.leaky_relu(self._norm(index + 1, x, labels), 0.2)
        result: Tensor = self.output_norm(torch.tanh(self.convs[2](x)))
        return result
