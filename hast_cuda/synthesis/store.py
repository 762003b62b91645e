"""Synthetic images on disk: one shard per batch, written whole or not at all."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hast_cuda.files import replace_file


@dataclass(frozen=True)
class SyntheticImages:
    """Images [N, C, H, W] float32, normalised as the teacher expects, and labels [N] int64."""

    images: Tensor
    """[N, C, H, W] float32."""
    labels: Tensor
    """[N] int64."""

    def __len__(self) -> int:
        return len(self.labels)


class ImageStore:
    """Directory of ``batch_00000.safetensors`` shards."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, index: int) -> Path:
        """File of one batch."""
        return self.directory / f"batch_{index:05d}.safetensors"

    def finished(self) -> set[int]:
        """Indices of the batches that are there."""
        if not self.directory.is_dir():
            return set()
        names = (
            re.fullmatch(r"batch_(\d{5})\.safetensors", p.name) for p in self.directory.iterdir()
        )
        return {int(match.group(1)) for match in names if match}

    def save(self, index: int, batch: SyntheticImages) -> None:
        """Write one batch; a reader never sees half of it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with replace_file(self.path(index)) as temporary:
            save_file(
                {"images": batch.images.contiguous(), "labels": batch.labels.contiguous()},
                temporary,
            )

    def load(self, index: int) -> SyntheticImages:
        """Read one batch; ValueError names a shard that is corrupt."""
        path = self.path(index)
        try:
            tensors = load_file(path)
            batch = SyntheticImages(tensors["images"], tensors["labels"])
        except (SafetensorError, KeyError) as error:
            message = f"shard {path} is corrupt ({error}); delete it and run again to make it anew"
            raise ValueError(message) from error
        if len(batch.images) != len(batch.labels) or not len(batch):
            message = f"shard {path} has {len(batch.images)} images and {len(batch.labels)} labels"
            raise ValueError(message)
        return batch

    def load_all(self) -> SyntheticImages:
        """All batches in order; ValueError if there are none or one is missing."""
        indices = sorted(self.finished())
        if not indices or indices != list(range(len(indices))):
            message = (
                f"{self.directory} holds batches {indices}; expected 0, 1, 2, ... without gaps"
            )
            raise ValueError(message)
        batches = [self.load(i) for i in indices]
        return SyntheticImages(
            torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches])
        )
