"""What fine-tuning needs of its images and labels, checked before any work."""

from __future__ import annotations

import torch
from torch import Tensor

from hast_cuda.checks.values import check_images as check_normalised
from hast_cuda.finetune.config import FinetuneConfig
from hast_cuda.generator.trainer import GeneratorTrainer


def check_images(
    images: Tensor | GeneratorTrainer, labels: Tensor | None, config: FinetuneConfig,
    device: torch.device,
) -> None:  # fmt: skip
    """ValueError unless images and labels are what ``config`` needs."""
    if isinstance(images, GeneratorTrainer):
        if labels is not None:
            message = "labels belong to stored images; a generator makes its own: leave them out"
            raise ValueError(message)
        if images.batch_size != config.batch_size or images.device.type != device.type:
            message = (
                f"the generator makes {images.batch_size} images at a time on {images.device}; "
                f"fine-tuning takes {config.batch_size} (batch_size) on {device}"
            )
            raise ValueError(message)
        return
    if not len(images.shape) or not len(images):
        message = "images is empty: fine-tuning needs at least one image"
        raise ValueError(message)
    check_normalised("images", images)
    if images.dim() != 4:
        message = f"images is {list(images.shape)}; expected [N, C, H, W], which can be cropped"
        raise ValueError(message)
    if not config.label_weight:
        return
    if labels is None:
        message = (
            f"label_weight is {config.label_weight}, which needs labels: give those of the images, "
            "or set it to 0"
        )
        raise ValueError(message)
    hard = labels.dim() == 1 and labels.dtype == torch.int64
    soft = labels.dim() == 2 and labels.is_floating_point()
    if not (hard or soft) or len(labels) != len(images):
        message = (
            f"labels is {list(labels.shape)} {labels.dtype}; expected classes [{len(images)}] "
            f"torch.int64 or probabilities [{len(images)}, classes]"
        )
        raise ValueError(message)


def check_classes(labels: Tensor, classes: int) -> None:
    """ValueError unless checked ``labels`` fit a network of so many classes; reads the device."""
    if labels.dim() == 2:
        if labels.shape[1] != classes:
            message = f"labels has {labels.shape[1]} classes per image; the network has {classes}"
            raise ValueError(message)
    elif int(labels.min()) < 0 or int(labels.max()) >= classes:
        message = (
            f"labels go from {int(labels.min())} to {int(labels.max())}; the network has "
            f"{classes} classes"
        )
        raise ValueError(message)
