"""Labelled images, in memory or read from files, as a network takes them."""

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
from hast_cuda.data.archives import CHANNELS, npz_arrays
from hast_cuda.data.input_spec import InputSpec

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

    def pixels(self, indices: Sequence[int]) -> Tensor:
        """What :attr:`read` gives, [len(indices), C, H, W]; ValueError for images of another size."""
        found, expected = self.read(indices), (len(indices), *self.spec.size)
        if found.shape != expected:
            raise ValueError(f"read gave images {list(found.shape)} of {self.source}; expected {list(expected)}")
        return found

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(float32 [B, C, H, W] normalised, int64 [B]) in order; the last may be smaller."""
        check_whole("batch_size", batch_size)
        check_range("batch_size", batch_size, 1)
        mean = torch.tensor(self.spec.mean).view(1, -1, 1, 1)
        std = torch.tensor(self.spec.std).view(1, -1, 1, 1)
        for start in range(0, len(self), batch_size):
            indices = range(start, min(start + batch_size, len(self)))
            images = self.pixels(indices).float() / self.white
            yield (images - mean) / std, self.labels[indices.start : indices.stop]


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
        size = min(batch_size, max(len(self), 1))
        yield from zip(self.images.split(size), self.labels.split(size), strict=True)

    @staticmethod
    def read(images: ImageSet) -> Images:
        """All images of a set, as real ones in memory."""
        batches = list(images.batches(1024))
        return Images(torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]), True)


@typed
def load_images(path: str | Path, *, spec: InputSpec, split: Split = "test", limit: int | None = None) -> ImageSet:
    """A labelled image set in one of the formats people have.

    Args:
        path: an .npz file with ``images`` (uint8 [N, H, W, C], C 1, 3 or 4, or [N, H, W]) and ``labels``
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
    if spec.channels not in CHANNELS:
        raise ValueError(f"channels={spec.channels} must be 1 (grey), 3 (RGB) or 4 to read images")
    if not spec.num_classes:
        raise ValueError(f"data={path}: the network classifies nothing, so labels say nothing of it: leave data away")
    location, white, read = as_path("path", path), 255, None
    if str(path) == DIGITS:
        white = digits.WHITE
        images, labels = digits.load_digit_images(split)
    elif not location.exists():
        raise FileNotFoundError(
            f"data={path} does not exist: give an .npz file, a CIFAR folder, a folder of images per class, or 'digits'"
        )
    elif location.is_dir():
        from hast_cuda.data import folders  # noqa: PLC0415 - torchvision takes seconds

        if folders.is_cifar_folder(location):
            images, labels = folders.cifar_folder(location, spec, split)
        elif spec.channels == 4:
            raise ValueError(f"data={path} is a folder, whose images have 3 channels: give 4 in an .npz file")
        else:
            read, labels = folders.image_folder(location, spec, split)
    else:
        images, labels = npz_arrays(location)
    reader = read or _memory(images, spec, str(path))
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= spec.num_classes:
        raise ValueError(
            f"data={path} has labels {low}..{high}, the network has {spec.num_classes} classes "
            f"(labels 0..{spec.num_classes - 1}): give the data set that the network was trained "
            "for, with labels that count from 0"
        )
    if limit is None or limit >= len(labels):
        return ImageSet(spec, labels, reader, white, str(path))
    kept = [i * len(labels) // limit for i in range(limit)]
    return ImageSet(spec, labels[kept], lambda i: reader([kept[k] for k in i]), white, str(path))


def _memory(images: Tensor, spec: InputSpec, source: str) -> Reader:
    """Reader of uint8 [N, C, H, W] held in memory; sizes and channels are checked now."""
    channels = images.shape[1]
    if channels != spec.channels:
        turned = images.shape[2] == spec.channels  # height, where [N, H, W, C] was expected
        fix = "transpose [N, C, H, W] with images.transpose(0, 2, 3, 1)" if turned else "convert the images"
        raise ValueError(
            f"data={source} has {channels} channels, the network takes {spec.channels}: {fix}, or give the "
            "network they belong to"
        )
    fit(images[:1], spec, source)
    return lambda indices: fit(images[torch.as_tensor(indices)], spec, source)


def fit(images: Tensor, spec: InputSpec, source: str) -> Tensor:
    """uint8 [..., H, W] as [..., spec.height, spec.width]; ValueError: another size, and ``spec.resize`` is None."""
    height, width = images.shape[-2:]
    if (height, width) == (spec.height, spec.width):
        return images
    if spec.resize is None:
        raise ValueError(
            f"data={source} has images of {height}x{width} pixels, the network takes exactly "
            f"{spec.height}x{spec.width}: resize them, or give the network they belong to"
        )
    from torchvision.transforms.v2 import functional as transforms  # noqa: PLC0415 - takes seconds

    resized: Tensor = transforms.resize(images, [spec.resize], antialias=True)
    cropped: Tensor = transforms.center_crop(resized, [spec.height, spec.width])
    return cropped
