"""Labelled image sets: one .npz, torchvision's CIFAR folders, ImageFolder, or the demo's digits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from hast_cuda.checks.typed import check_fields, typed
from hast_cuda.checks.values import as_path, check_range, check_whole
from hast_cuda.data import digits
from hast_cuda.data.archives import npz_arrays
from hast_cuda.data.input_spec import InputSpec
from hast_cuda.data.resize import fit

__all__ = ["ImageSet", "load_images"]

DIGITS = "digits"

Split = Literal["train", "test"]
Reader = Callable[[Sequence[int]], Tensor]


@dataclass(frozen=True)
class ImageSet:
    """Images and labels for one network, read batch by batch.

    Attributes:
        spec: the network's input; every image has its size.
        labels: int64 [N], 0..spec.num_classes-1.
        read: indices -> uint8 [len(indices), C, H, W].
        white: the pixel value that stands for 1.0.
        source: where the images came from, for messages.

    Example:
        >>> import hast_cuda as hc
        >>> test = hc.load_images("digits", spec=hc.InputSpec(1, 8, 8, 10), limit=20)
        >>> next(test.batches(16))[0].shape
        torch.Size([16, 1, 8, 8])
    """

    spec: InputSpec
    labels: Tensor
    read: Reader
    white: int
    source: str

    def __post_init__(self) -> None:
        check_fields(self)
        check_range("white", self.white, 1)
        if self.labels.dim() != 1 or self.labels.dtype != torch.int64 or not len(self.labels):
            found = f"{list(self.labels.shape)} {self.labels.dtype}"
            raise ValueError(f"labels={found} must be [N] torch.int64, not empty")

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (float32 [B, C, H, W] normalised, int64 [B]) in order; the last may be smaller.

        Raises:
            ValueError: ``batch_size`` below 1.
        """
        check_whole("batch_size", batch_size)
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        mean = torch.tensor(self.spec.mean).view(1, -1, 1, 1)
        std = torch.tensor(self.spec.std).view(1, -1, 1, 1)
        for start in range(0, len(self), batch_size):
            indices = range(start, min(start + batch_size, len(self)))
            images = self.read(indices).float() / self.white
            yield (images - mean) / std, self.labels[indices.start : indices.stop]


@typed
def load_images(
    path: str | Path, *, spec: InputSpec, split: Split = "test", limit: int | None = None
) -> ImageSet:
    """A labelled image set in one of the formats people have.

    Args:
        path: an .npz file with ``images`` (uint8 [N, H, W, C] or [N, H, W]) and ``labels``
            (integers [N]); torchvision's cifar-10-batches-py or cifar-100-python, or the folder
            around it; a folder with one folder of images per class, or with those under
            "train" and "test" or "val"; or "digits", the demo's images.
        spec: the input of the network that will see them.
        split: which images of a source that has both; an .npz has one split only.
        limit: keep this many images, evenly spaced, so that sorted sets keep all their classes.

    Raises:
        FileNotFoundError: nothing at ``path``.
        ValueError: the source is broken or does not fit ``spec``; the message says how.
        ImportError: "digits" without scikit-learn.

    Example:
        >>> import hast_cuda as hc
        >>> len(hc.load_images("digits", spec=hc.InputSpec(1, 8, 8, 10), limit=20))
        20
    """
    if split not in ("train", "test"):
        raise ValueError(f"split={split!r} must be 'train' or 'test'")
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} must be at least 1 image")
    if spec.channels not in (1, 3):
        raise ValueError(f"channels={spec.channels} must be 1 (grey) or 3 (RGB) to read images")
    location = as_path("path", path)
    read: Reader
    if str(path) == DIGITS:
        white = digits.WHITE
        images, labels = digits.load_digit_images(split)
        read = _memory(images, spec, "digits")
    else:
        white = 255
        if not location.exists():
            raise FileNotFoundError(
                f"data={path} does not exist: give an .npz file, a CIFAR folder, a folder of "
                "images per class, or 'digits'"
            )
        if location.is_dir():
            from hast_cuda.data import folders  # noqa: PLC0415 - torchvision takes seconds

            if folders.is_cifar_folder(location):
                images, labels = folders.cifar_folder(location, spec, split)
                read = _memory(images, spec, str(path))
            else:
                read, labels = folders.image_folder(location, spec, split)
        else:
            images, labels = npz_arrays(location)
            read = _memory(images, spec, str(path))
    _check_labels(labels, spec, str(path))
    if limit is not None and limit < len(labels):
        kept = [i * len(labels) // limit for i in range(limit)]
        labels, read = labels[kept], _subset(read, kept)
    return ImageSet(spec, labels, read, white, str(path))


def _memory(images: Tensor, spec: InputSpec, source: str) -> Reader:
    """Reader of uint8 [N, C, H, W] held in memory; sizes and channels are checked now."""
    channels = images.shape[1]
    if channels != spec.channels:
        raise ValueError(
            f"data={source} has {channels} channels, the network takes {spec.channels}: convert "
            "the images, or give the network they belong to"
        )
    fit(images[:1], spec, source)
    return lambda indices: fit(images[torch.as_tensor(indices)], spec, source)


def _subset(read: Reader, kept: Sequence[int]) -> Reader:
    return lambda indices: read([kept[i] for i in indices])


def _check_labels(labels: Tensor, spec: InputSpec, source: str) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= spec.num_classes:
        raise ValueError(
            f"data={source} has labels {low}..{high}, the network has {spec.num_classes} classes "
            f"(labels 0..{spec.num_classes - 1}): give the data set that the network was trained "
            "for, with labels that count from 0"
        )
