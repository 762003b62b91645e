"""Activation ranges before fine-tuning: from synthetic images, or a generator (as released)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor, nn

from hast_cuda.augment import random_crop_flip
from hast_cuda.finetune.config import FinetuneConfig
from hast_cuda.finetune.loop import shuffled
from hast_cuda.nn import activation_quantizers, calibrate
from hast_cuda.seeding import generator
from hast_cuda.synthesis.generator import generated_batches


def augmented(
    images: Tensor, config: FinetuneConfig, seed: int, device: torch.device
) -> Iterator[Tensor]:
    """Endless calibration batches, cropped and flipped as the training batches will be."""
    random = generator(seed, "calibration")
    stream = shuffled(len(images), config.calibration_batch_size, seed, "calibration order")
    while True:
        yield random_crop_flip(
            images[next(stream).to(images.device)].to(device),
            config.crop_scale,
            random,
            flip_probability=config.flip_probability,
        )


def calibrate_student(
    teacher: nn.Module, student: nn.Module, images: Tensor, config: FinetuneConfig, *,
    num_classes: int, seed: int, device: torch.device,
) -> None:  # fmt: skip
    """Track the ranges over ``config.calibration_updates`` batches and freeze them.

    Args:
        teacher: trains the generator, if ``config.calibration`` asks for one.
        student: from :func:`hast_cuda.quantize`, on ``device``; edited.
        images: synthetic images [N, C, H, W].
        config: how.
        num_classes: of the teacher.
        seed: of the order, crops and generator.
        device: where to compute.
    """
    if not activation_quantizers(student):
        return  # weights only: there is no range to find
    if config.calibration == "generator":
        channels, height, width = images.shape[1:]
        stream = generated_batches(
            teacher, (channels, height, width), num_classes, config.calibration_batch_size,
            seed=seed, device=device,
        )  # fmt: skip
    else:
        stream = augmented(images, config, seed, device)
    calibrate(student, islice(stream, config.calibration_updates))
