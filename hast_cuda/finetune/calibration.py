"""Activation ranges before fine-tuning: from images, a generator (as released), or BatchNorm."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor, nn

from hast_cuda.finetune.batches import shuffled
from hast_cuda.finetune.config import FinetuneConfig
from hast_cuda.generator.trainer import GeneratorTrainer
from hast_cuda.loops.allocator import freed_memory_kept
from hast_cuda.loops.crops import draw_crops, resize_crops
from hast_cuda.loops.execution import Execution, convolution_rules
from hast_cuda.loops.progress import Progress
from hast_cuda.loops.seeding import generator
from hast_cuda.moments import batch_norm_ranges
from hast_cuda.nn import activation_quantizers, calibrate


def augmented(images: Tensor, config: FinetuneConfig, seed: int, device: torch.device) -> Iterator[Tensor]:
    """Endless calibration batches, cropped and flipped as the training batches will be."""
    random, size = generator(seed, "calibration"), (images.shape[2], images.shape[3])
    for chosen in shuffled(len(images), config.calibration_batch_size, seed, "calibration order"):
        batch = images[chosen.to(images.device)].to(device)
        crops = draw_crops(len(batch), size, config.crop_scale, config.flip_probability, random)
        yield resize_crops(batch, crops.to(device))


@freed_memory_kept()
def calibrate_student(
    teacher: nn.Module,
    student: nn.Module,
    images: Tensor | None,
    config: FinetuneConfig,
    *,
    size: tuple[int, int, int],
    num_classes: int,
    seed: int,
    device: torch.device,
    trainer: GeneratorTrainer | None = None,
    width: float = 6.0,
    narrow: bool = False,
    execution: Execution | None = None,
) -> None:
    """Find the ranges as ``config.calibration`` says and freeze them.

    A generator whose images the student will be trained on, that of ``trainer``, is warmed up here;
    with ``calibration="generator"`` the last ``config.calibration_updates`` of its iterations
    update the ranges. Else the teacher trains one that is made here, of images of ``size`` (C, H, W).
    ``images`` are [N, C, H, W] and may be missing where nothing is found from them; ``width`` and
    ``narrow`` are those of :func:`batch_norm_ranges`.
    """
    with convolution_rules(execution or Execution()):
        if trainer is not None:
            _warm_up(trainer, student, config)
            if config.calibration == "generator":
                return
        if not activation_quantizers(student):
            return  # weights only: there is no range to find
        if config.calibration == "batch_norm":
            batch_norm_ranges(student, width, narrow=narrow)
            return
        if config.calibration == "generator":
            count = config.calibration_batch_size
            stream = GeneratorTrainer(teacher, size, num_classes, batch_size=count, seed=seed, device=device).batches()
        elif images is None:
            raise ValueError(f'calibration is "{config.calibration}", which needs stored images')
        else:
            stream = augmented(images, config, seed, device)
        calibrate(student, islice(stream, config.calibration_updates))


def _counted(batches: Iterator[Tensor], progress: Progress) -> Iterator[Tensor]:
    for batch in batches:
        yield batch
        progress.update()


def _warm_up(trainer: GeneratorTrainer, student: nn.Module, config: FinetuneConfig) -> None:
    """Train the generator alone; its last images set the ranges if they are to."""
    if config.calibration == "images":
        raise ValueError(
            'calibration is "images", but the images come from a generator: choose "generator" or "batch_norm"'
        )
    warmup, updates = trainer.config.warmup, 0
    if config.calibration == "generator" and activation_quantizers(student):
        updates = config.calibration_updates
    if updates > warmup:
        raise ValueError(
            f"calibration_updates is {updates}, but the generator's warmup has only {warmup} "
            "iterations; lower the one or raise the other"
        )
    with Progress("generator's warm-up", warmup) as progress:
        batches = _counted(trainer.batches(), progress)
        for _ in islice(batches, warmup - updates):
            pass
        if updates:
            calibrate(student, islice(batches, updates))
    trainer.check()
