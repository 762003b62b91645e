"""Synthetic images on disk: one shard per batch, written whole or not at all."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_path, check_images, check_range
from hast_cuda.data import Images
from hast_cuda.files.tensors import DamagedFileError, load_tensors, save_tensors


class ImageStore:
    """Directory of ``batch_00000.safetensors`` shards.

    Example:
        >>> store = ImageStore("images")
        >>> store.save(0, hc.Images(torch.zeros(2, 1, 8, 8), torch.tensor([3, 7])))
        >>> store.finished(), store.load_all().labels
        ({0}, tensor([3, 7]))
    """

    @typed
    def __init__(self, directory: Path | str) -> None:
        self.directory = as_path("directory", directory)

    @typed
    def path(self, index: int) -> Path:
        """File of one batch."""
        check_range("index", index, 0, 99_999)
        return self.directory / f"batch_{index:05d}.safetensors"

    def finished(self) -> set[int]:
        """Indices of the batches that are there."""
        if not self.directory.is_dir():
            return set()
        names = [path.name for path in self.directory.iterdir()]
        found = (re.fullmatch(r"batch_(\d{5})\.safetensors", name) for name in names)
        return {int(match.group(1)) for match in found if match}

    @typed
    def save(self, index: int, batch: Images) -> None:
        """Write one batch; a reader never sees half of it."""
        check_images("batch.images", batch.images)
        self.directory.mkdir(parents=True, exist_ok=True)
        tensors = {"images": batch.images.contiguous(), "labels": batch.labels.contiguous()}
        save_tensors(self.path(index), tensors)

    @typed
    def load(self, index: int) -> Images:
        """Read one batch; DamagedFileError, a ValueError, names a shard that is corrupt."""
        path = self.path(index)
        try:
            tensors, _ = load_tensors(path)
            images, labels = tensors["images"], tensors["labels"]
            if images.dim() != 4 or images.dtype != torch.float32 or labels.dtype != torch.int64:
                raise DamagedFileError(
                    f"images {images.dtype} {list(images.shape)}, labels {labels.dtype}; expected "
                    "float32 [N, C, H, W] and int64"
                )
            if labels.dim() != 1 or len(images) != len(labels) or not len(images):
                raise DamagedFileError(f"{len(images)} images and {labels.numel()} labels")
        except (DamagedFileError, KeyError) as error:
            raise DamagedFileError(
                f"shard {path} is corrupt ({error}); delete it and run again to make it anew"
            ) from error
        return Images(images, labels)

    def load_all(self) -> Images:
        """All batches in order; ValueError if there are none or one is missing."""
        indices = sorted(self.finished())
        if not indices or indices != list(range(len(indices))):
            raise ValueError(f"{self.directory} holds batches {indices}; expected 0, 1, 2, ... without gaps")
        batches = [self.load(index) for index in indices]
        images, labels = ([getattr(b, name) for b in batches] for name in ("images", "labels"))
        return Images(torch.cat(images), torch.cat(labels))
