"""Labelled images in memory, real or synthetic, as a network takes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hast_cuda.checks.typed import check_fields
from hast_cuda.checks.values import check_range
from hast_cuda.data.image_set import ImageSet


@dataclass(frozen=True)
class Images:
    """Images [N, C, H, W] float32, normalised as the network expects, and labels [N] int64.

    Example:
        >>> import hast_cuda as hc
        >>> made = hc.Images(torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, 2]))
        >>> [len(labels) for _, labels in made.batches(2)]
        [2, 1]
    """

    images: Tensor
    """[N, C, H, W] float32."""
    labels: Tensor
    """[N] int64."""
    real: bool = False
    """Whether the labels are what photographs show, and not what images were made for."""

    def __post_init__(self) -> None:
        check_fields(self)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def source(self) -> str:
        """What they are, for messages."""
        return "real images" if self.real else "synthetic images"

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(images, labels) in order; the last batch may be smaller."""
        check_range("batch_size", batch_size, 1)
        yield from zip(self.images.split(batch_size), self.labels.split(batch_size), strict=True)

    @staticmethod
    def read(images: ImageSet) -> Images:
        """All images of a set, as real ones in memory."""
        batches = list(images.batches(1024))
        return Images(torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]), True)
