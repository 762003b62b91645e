"""From a pretrained network to a fine-tuned quantized one, phase by phase, in a run directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hast_cuda import methods
from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_path, check_choice, check_image_size, check_range
from hast_cuda.data import Images, ImageSet, InputSpec
from hast_cuda.loops.execution import Execution, convolution_rules
from hast_cuda.methods import Recipe
from hast_cuda.methods.recipe import dataset_like
from hast_cuda.networks.shape import infer_shape
from hast_cuda.ranks import World, join
from hast_cuda.ranks.world import world_on
from hast_cuda.run.inputs import Bits, check_source, with_ends
from hast_cuda.run.tensorboard import require_tensorboard
from hast_cuda.run.work import Work


@dataclass
class QuantizationResult:
    """The quantized network, its images if any are kept, and the figures of ``result.json``.

    Example:
        >>> import hast_cuda as hc
        >>> done = hc.zero_shot_quantize(hc.load_teacher("digits"), (1, 8, 8), method="rtn")
        >>> done.images, done.result["bits"]["weights"]
        (None, 4)
    """

    student: nn.Module
    """The quantized network: that of the last iteration or, where the recipe keeps the best, the one
    that was closest to the original on images held out."""
    images: Images | None
    """What it was trained on; None where a generator made images, or none were needed."""
    result: dict[str, Any]
    """Accuracies in percent, seconds per phase, and what was asked for."""


@typed
def zero_shot_quantize(
    teacher: nn.Module,
    shape: InputSpec | tuple[int, int, int],
    bits: Bits | None = None,
    *,
    recipe: Recipe | str = "default",
    dataset: str | None = None,
    method: str = "hast",
    seed: int = 0,
    device: torch.device | str | None = None,
    out: Path | str | None = None,
    images: Images | None = None,
    test: ImageSet | None = None,
    describe: Mapping[str, Any] | None = None,
    evaluation_batch: int = 256,
    execution: Execution | None = None,
    tensorboard: bool = False,
    world: World | None = None,
) -> QuantizationResult:
    """Quantize ``teacher`` without its data: synthesise, calibrate, fine-tune (Algorithm 1).

    Several processes that torchrun started, each with this call, share the work and get the same
    result; rank 0 alone writes, logs and evaluates. The number of processes may differ between the
    attempts of a run.

    Args:
        teacher: pretrained network with BatchNorm; never edited.
        shape: its input and classes, or its input (C, H, W).
        bits: widths and placement; default 4 and 4. Its overrides come after the recipe's
            ``posttraining.end_bits``.
        recipe: a :class:`Recipe`, or the name of a preset of ``method`` for ``dataset``.
        dataset: the kind of images, for a preset's name: "cifar10", "cifar100" or "imagenet";
            default the one whose images and classes are like those of ``shape``.
        method: for a preset's name; one of :func:`hast_cuda.methods.available`.
        seed: of everything random.
        device: where to compute; default that of ``world``, or the CPU.
        out: run directory; None keeps nothing. The same call continues an unfinished run, and
            gives the result of a finished one.
        images: use these instead of synthesising; the training images of a recipe that wants real
            ones.
        test: real images to report accuracy on; never used for training or choosing.
        describe: more entries for ``config.json`` and ``result.json`` (network, preset, ...).
        evaluation_batch: images per forward pass of an evaluation.
        execution: precision, memory layout, CUDA graphs; default :class:`Execution`.
        tensorboard: write what is logged as event files too, in ``out``/tensorboard; may change
            between the attempts of a run.
        world: the processes, each on its device; default :func:`hast_cuda.ranks.join` on
            ``device``. ``World(device=...)`` keeps this process to itself.

    Raises:
        ValueError, TypeError: bad arguments, or others than those of the other processes, before
            any work. RankLostError: another process died. ImportError: no tensorboard.
        FloatingPointError: a loss that is not finite.
        OSError: the directory cannot be written.

    Example:
        >>> import hast_cuda as hc
        >>> teacher = hc.load_teacher("digits")
        >>> found = hc.zero_shot_quantize(teacher, (1, 8, 8), hc.Bits(4, 4), method="squant")
        >>> found.student(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    check_range("evaluation_batch", evaluation_batch, 1)
    out = None if out is None else as_path("out", out)
    if tensorboard:
        if out is None:
            raise ValueError("tensorboard=True writes to the run directory: give out")
        require_tensorboard()
    if not isinstance(shape, InputSpec):
        check_image_size("shape", shape)
        shape = infer_shape(teacher, shape)
    named: dict[str, Any] = {}
    if isinstance(recipe, str):
        check_choice("recipe", recipe, methods.PRESETS)
        named = {"method": method, "preset": recipe}
        recipe = methods.recipe(method, recipe, dataset_like(shape) if dataset is None else dataset)
    check_source(recipe, teacher, images, shape)
    bits = with_ends(bits or Bits(), recipe, teacher, shape)
    described = {**named, "bits": bits, "seed": seed, **(describe or {})}
    world = join("cpu" if device is None else device) if world is None else world_on(world, device)
    execution = execution or Execution()
    work = Work(teacher, shape, bits, recipe, described, seed, test, world, execution, out, evaluation_batch)
    with convolution_rules(work.execution), work.opened(images, tensorboard=tensorboard) as found:
        if found is not None:
            return QuantizationResult(work.student, work.finished(images), found)
        images = work.make_images(images)
        accuracies = work.calibrate(images)
        accuracies |= work.reconstruct(images)
        return QuantizationResult(work.student, images, work.conclude(accuracies, work.finetune(images), images))
