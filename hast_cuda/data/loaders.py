"""Batches as torch's DataLoader gives them, taken wherever images are."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hast_cuda.data.archives import LARGEST
from hast_cuda.data.image_set import Images, ImageSet
from hast_cuda.data.input_spec import InputSpec

Loader = Iterable[Sequence[Any]]
"""Batches (images, labels), normalised as the network expects; more than two of a batch are left alone."""
Labelled = Images | ImageSet | Loader


def pixels_of(name: str, batch: Tensor | Sequence[Any]) -> Tensor:
    """The images of a batch, which may have labels behind them."""
    found = batch if isinstance(batch, Tensor) else next(iter(batch), None)
    if not isinstance(found, Tensor):
        raise TypeError(
            f"{name} is a {type(batch).__name__} that begins with a {type(found).__name__}; expected images"
        )
    return found


def pairs(images: Labelled, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(images, labels) in order; those of a loader in its own batches."""
    if isinstance(images, (Images, ImageSet)):
        yield from images.batches(batch_size)
        return
    for index, batch in enumerate(images):
        x, labels = pixels_of(f"images[{index}]", batch), batch[1] if len(batch) > 1 else None
        if not isinstance(labels, Tensor) or labels.dim() != 1 or len(labels) != len(x):
            raise ValueError(
                f"images[{index}] has {len(x)} images and no label for each: give batches (images, labels)"
            )
        yield x, labels.long()


def count_of(images: Labelled, batch_size: int) -> int:
    """Batches of :func:`pairs`; 0 of a loader that does not tell."""
    if isinstance(images, (Images, ImageSet)):
        return -(-len(images) // max(batch_size, 1))
    return operator.length_hint(images)


def as_images(images: Images | Loader | None) -> Images | None:
    """All of a loader in memory, as real images."""
    if images is None or isinstance(images, Images):
        return images
    found, held = list[tuple[Tensor, Tensor]](), 0
    for x, labels in pairs(images, 1):
        held += x.numel() * x.element_size()
        if held > LARGEST:
            raise ValueError(
                f"the loader gives more than {LARGEST} bytes of images, which are held in memory: give fewer"
            )
        found.append((x.detach().float().cpu(), labels.cpu()))
    if not found:
        raise ValueError("the loader gives no batch of images")
    return Images(torch.cat([x for x, _ in found]), torch.cat([y for _, y in found]), True)


def as_image_set(images: Labelled | None, shape: InputSpec) -> ImageSet | None:
    """A loader's images, or those in memory, as a set that can be read in any order; they stay as they are."""
    if images is None or isinstance(images, ImageSet):
        return images
    held = as_images(images)
    assert held is not None
    plain = InputSpec(*shape.size, shape.num_classes)
    return ImageSet(plain, held.labels, lambda indices: held.images[torch.as_tensor(indices)], 1, held.source)
