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
from hast_cuda.loops.allocator import freed_memory_kept
from hast_cuda.loops.execution import Execution, convolution_rules
from hast_cuda.loops.modes import with_gradients
from hast_cuda.loops.progress import progress_shown
from hast_cuda.methods import Recipe
from hast_cuda.methods.recipe import dataset_like
from hast_cuda.networks.shape import infer_shape
from hast_cuda.ranks import World, join
from hast_cuda.ranks.world import world_on
from hast_cuda.run.asked import Asked
from hast_cuda.run.estimate import Estimate
from hast_cuda.run.inputs import Bits, check_source, check_teacher, placed, with_ends
from hast_cuda.run.plan import make_plan, told
from hast_cuda.run.same_function import require_same_function
from hast_cuda.run.tensorboard import require_tensorboard


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
@with_gradients
@freed_memory_kept()
def zero_shot_quantize(
    teacher: nn.Module,
    shape: InputSpec | tuple[int, int, int],
    bits: Bits | None = None,
    *,
    recipe: Recipe | str = "default",
    dataset: str | None = None,
    method: str = "hast",
    budget: str | None = None,
    changes: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    out: Path | str | None = None,
    images: Images | None = None,
    test: ImageSet | None = None,
    describe: Mapping[str, Any] | None = None,
    evaluation_batch: int = 256,
    execution: Execution | None = None,
    tensorboard: bool = False,
    progress: bool = True,
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
        budget: how much of the recipe is computed: "full", "small", a share such as "10%", or what
            fits a time such as "90s", "10m" or "2h" on this machine; its numbers go into
            ``config.json``. Default: of a preset "full" on a GPU and "10m" on a CPU, of a
            :class:`Recipe` all.
        changes: values by dotted name, e.g. {"synthesis.num_images": 256}, which the budget leaves
            alone.
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
        progress: show on stderr what will be done, where a budget chose it, and how far it is: bars
            in a terminal, elsewhere lines.
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
    asked, named = _asked(
        teacher,
        shape,
        bits,
        recipe=recipe,
        dataset=dataset,
        method=method,
        changes=changes,
        seed=seed,
        device=device,
        out=out,
        images=images,
        test=test,
        evaluation_batch=evaluation_batch,
        execution=execution,
        world=world,
    )
    if tensorboard:
        if out is None:
            raise ValueError("tensorboard=True writes to the run directory: give out")
        require_tensorboard()
    with progress_shown(progress):
        plan = told(make_plan(asked, budget, changes or {}, named=bool(named)), asked.world)
        chosen = {} if plan.budget is None else {"budget": plan.budget}
        work = asked.work(plan.recipe, {**named, "bits": asked.bits, "seed": seed, **(describe or {}), **chosen})
        given = asked.recipe, asked.shape, asked.execution, work.device
        require_same_function(asked.teacher, work.prepared, work.student, *given)
        with convolution_rules(work.execution), work.opened(images, tensorboard=tensorboard) as found:
            if found is not None:
                return QuantizationResult(work.student, work.finished(images), found)
            images = work.make_images(images)
            accuracies = work.calibrate(images)
            accuracies |= work.reconstruct(images)
            result = work.conclude(accuracies, work.finetune(images), images)
            return QuantizationResult(work.student, images, result)


@typed
def estimate(
    teacher: nn.Module,
    shape: InputSpec | tuple[int, int, int],
    bits: Bits | None = None,
    *,
    recipe: Recipe | str = "default",
    dataset: str | None = None,
    method: str = "hast",
    budget: str | None = None,
    changes: Mapping[str, Any] | None = None,
    device: torch.device | str | None = None,
    out: Path | str | None = None,
    images: Images | None = None,
    test: ImageSet | None = None,
    evaluation_batch: int = 256,
    execution: Execution | None = None,
    world: World | None = None,
) -> Estimate:
    """What :func:`zero_shot_quantize` with the same arguments would do, and how long it would take.

    A few iterations of every phase are timed, in memory; nothing is written.

    Args:
        teacher: pretrained network with BatchNorm; never edited.
        shape: its input and classes, or its input (C, H, W).
        bits: widths and placement; default 4 and 4.
        recipe: a :class:`Recipe`, or the name of a preset.
        dataset: the kind of images, for a preset's name.
        method: for a preset's name.
        budget: "full", "small", "N%" or a time; see docs/budgets.md.
        changes: values by dotted name, which the budget leaves alone.
        device: where to compute.
        out: run directory; of one that is there the numbers count.
        images: those that would be given.
        test: real images to report accuracy on.
        evaluation_batch: images per forward pass of an evaluation.
        execution: how to compute.
        world: the processes.

    Raises:
        ValueError, TypeError: bad arguments, or a time in which nothing sensible fits.

    Example:
        >>> import hast_cuda as hc
        >>> found = estimate(hc.load_teacher("digits"), (1, 8, 8), method="rtn", budget="full")
        >>> found.images
        0
    """
    asked, named = _asked(
        teacher,
        shape,
        bits,
        recipe=recipe,
        dataset=dataset,
        method=method,
        changes=changes,
        device=device,
        out=out,
        images=images,
        test=test,
        evaluation_batch=evaluation_batch,
        execution=execution,
        world=world,
    )
    found = make_plan(asked, budget, changes or {}, named=bool(named), estimate=True).estimate
    assert found is not None  # as it was asked for
    return found


def _asked(
    teacher: nn.Module,
    shape: InputSpec | tuple[int, int, int],
    bits: Bits | None,
    *,
    recipe: Recipe | str,
    dataset: str | None,
    method: str,
    changes: Mapping[str, Any] | None,
    device: torch.device | str | None,
    out: Path | str | None,
    images: Images | None,
    test: ImageSet | None,
    evaluation_batch: int,
    execution: Execution | None,
    world: World | None,
    seed: int = 0,
) -> tuple[Asked, dict[str, Any]]:
    """Arguments that fit each other, and method and preset where these have names."""
    check_range("evaluation_batch", evaluation_batch, 1)
    out = None if out is None else as_path("out", out)
    if not isinstance(shape, InputSpec):
        check_image_size("shape", shape)
        shape = infer_shape(teacher, shape)
    named: dict[str, Any] = {}
    if isinstance(recipe, str):
        check_choice("recipe", recipe, methods.PRESETS)
        named = {"method": method, "preset": recipe}
        recipe = methods.recipe(method, recipe, dataset_like(shape) if dataset is None else dataset)
    recipe = methods.change(recipe, changes or {})
    check_teacher(teacher, shape)
    check_source(recipe, teacher, images, shape)
    if test is not None and not shape.num_classes:
        raise ValueError("test has labels, and the network classifies nothing: leave test away")
    bits = with_ends(placed(bits or Bits(), teacher), recipe, teacher, shape)
    world = join("cpu" if device is None else device) if world is None else world_on(world, device)
    execution = execution or Execution()
    found = Asked(teacher, shape, recipe, world, execution, bits, seed, images, test, out, evaluation_batch)
    return found, named
