"""Activation ranges before fine-tuning: from images, a generator (as released), or BatchNorm."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor, nn

from hast_cuda.finetune.batches import shuffled
from hast_cuda.finetune.config import FinetuneConfig
from hast_cuda.generator.trainer import GeneratorTrainer
from hast_cuda.loops.crops import random_crop_flip
from hast_cuda.loops.execution import Execution, convolution_rules
from hast_cuda.loops.seeding import generator
from hast_cuda.moments import batch_norm_ranges
from hast_cuda.nn import activation_quantizers, calibrate


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
    teacher: nn.Module, student: nn.Module, images: Tensor | None, config: FinetuneConfig, *,
    num_classes: int, seed: int, device: torch.device, trainer: GeneratorTrainer | None = None,
    width: float = 6.0, execution: Execution | None = None,
) -> None:  # fmt: skip
    """Find the ranges as ``config.calibration`` says and freeze them.

    A generator whose images the student will be trained on is warmed up here, for
    ``GeneratorConfig.warmup`` iterations; with ``calibration="generator"`` the last
    ``config.calibration_updates`` of them update the ranges.

    Args:
        teacher: trains the generator, if ``config.calibration`` asks for one.
        student: from :func:`hast_cuda.quantize`, on ``device``; edited.
        images: synthetic images [N, C, H, W], or None where a trainer makes them or ranges come
            from BatchNorm.
        config: how.
        num_classes: of the teacher.
        seed: of the order, crops and a generator made here.
        device: where to compute.
        trainer: of the generator that the student will be trained with.
        width: of ranges from BatchNorm, in standard deviations.
        execution: how to compute; default :class:`Execution`.

    Raises:
        FloatingPointError: the generator's loss is not finite.
        ValueError: stored images are asked for and there are none, or more updates than the warm-up
            has iterations.
    """
    with convolution_rules(execution or Execution()):
        if trainer is not None:
            _warm_up(trainer, student, config)
            if config.calibration == "generator":
                return
        if not activation_quantizers(student):
            return  # weights only: there is no range to find
        if config.calibration == "batch_norm":
            batch_norm_ranges(student, width)
            return
        if images is None:
            message = f'calibration is "{config.calibration}", which needs stored images'
            raise ValueError(message)
        if config.calibration == "generator":
            channels, height, columns = images.shape[1:]
            stream = GeneratorTrainer(
                teacher, (channels, height, columns), num_classes,
                batch_size=config.calibration_batch_size, seed=seed, device=device,
            ).batches()  # fmt: skip
        else:
            stream = augmented(images, config, seed, device)
        calibrate(student, islice(stream, config.calibration_updates))


def _warm_up(trainer: GeneratorTrainer, student: nn.Module, config: FinetuneConfig) -> None:
    """Train the generator alone; its last images set the ranges if they are to."""
    if config.calibration == "images":
        message = (
            'calibration is "images", but the images come from a generator: choose "generator" or '
            '"batch_norm"'
        )
        raise ValueError(message)
    warmup, updates = trainer.config.warmup, 0
    if config.calibration == "generator" and activation_quantizers(student):
        updates = config.calibration_updates
    if updates > warmup:
        message = (
            f"calibration_updates is {updates}, but the generator's warmup has only {warmup} "
            "iterations; lower the one or raise the other"
        )
        raise ValueError(message)
    batches = trainer.batches()
    for _ in islice(batches, warmup - updates):
        pass
    if updates:
        calibrate(student, islice(batches, updates))
    trainer.check()
