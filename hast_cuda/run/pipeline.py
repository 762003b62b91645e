"""From a pretrained network to a fine-tuned quantized one, phase by phase, in a run directory."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hast_cuda import methods
from hast_cuda.checks.typed import arguments_as, typed
from hast_cuda.checks.values import as_path, check_choice, check_image_size, check_range
from hast_cuda.data import Images, InputSpec
from hast_cuda.data.loaders import Labelled, Loader, as_image_set, as_images
from hast_cuda.loops.execution import Execution, convolution_rules
from hast_cuda.loops.modes import with_gradients
from hast_cuda.loops.progress import progress_shown
from hast_cuda.methods import Recipe
from hast_cuda.methods.recipe import dataset_like
from hast_cuda.networks.shape import infer_shape
from hast_cuda.ranks import World, join
from hast_cuda.ranks.world import world_on
from hast_cuda.run.estimate import Estimate
from hast_cuda.run.inputs import Asked, Bits, check_source, check_teacher, placed, with_ends
from hast_cuda.run.plan import make_plan, told
from hast_cuda.run.quantized import QuantizationResult
from hast_cuda.run.same_function import require_same_function
from hast_cuda.run.tensorboard import require_tensorboard
from hast_cuda.run.work import Work


@typed
@with_gradients
def zero_shot_quantize(
    teacher: nn.Module,
    shape: InputSpec | tuple[int, int, int],
    bits: Bits | None = None,
    *,
    weights: int = 4,
    activations: int | None = 4,
    recipe: Recipe | str = "default",
    dataset: str | None = None,
    method: str = "hast",
    budget: str | None = None,
    changes: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    out: Path | str | None = None,
    images: Images | Loader | None = None,
    test: Labelled | None = None,
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
        bits: widths and placement, where ``weights`` and ``activations`` do not say enough. Its
            overrides come after the recipe's ``posttraining.end_bits``.
        weights: bits of all weights, 2 to 8.
        activations: bits of all activations, 2 to 8; None leaves them as they are.
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
            ones. Batches (images, labels), such as a DataLoader gives, are read into memory.
        test: real images to report accuracy on; never used for training or choosing. In memory, from files, or
            batches (images, labels), normalised.
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
        >>> found = hc.zero_shot_quantize(teacher, (1, 8, 8), weights=4, activations=4, method="squant")
        >>> found.student(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    asked, named = _asked(
        teacher,
        shape,
        bits,
        weights=weights,
        activations=activations,
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
        work = _checked_work(asked)
        plan = told(make_plan(asked, budget, changes or {}, named=bool(named)), asked.world)
        chosen = {} if plan.budget is None else {"budget": plan.budget}
        work.recipe = plan.recipe
        work.described = {**named, "bits": asked.bits, "seed": seed, **(describe or {}), **chosen}
        images = asked.images
        with convolution_rules(work.execution), work.opened(images, tensorboard=tensorboard) as found:
            if found is not None:
                return _result(work, work.finished(images), found)
            images = work.make_images(images)
            accuracies = work.calibrate(images)
            accuracies |= work.reconstruct(images)
            result = work.conclude(accuracies, work.finetune(images), images)
            return _result(work, images, result)


@arguments_as(zero_shot_quantize)
def estimate(*, budget: str | None, changes: Mapping[str, Any] | None, **others: Any) -> Estimate:
    """What :func:`zero_shot_quantize` with the same arguments would do, and how long it would take.

    A few iterations of every phase are timed, in memory; nothing is written. Of an ``out`` that is there the
    numbers count. All arguments are those of :func:`zero_shot_quantize`.

    Raises:
        ValueError, TypeError: bad arguments, or a time in which nothing sensible fits.

    Example:
        >>> import hast_cuda as hc
        >>> found = estimate(hc.load_teacher("digits"), (1, 8, 8), method="rtn", budget="full")
        >>> found.images
        0
    """
    known = inspect.signature(_asked).parameters
    asked, named = _asked(changes=changes, **{name: value for name, value in others.items() if name in known})
    _checked_work(asked)
    found = make_plan(asked, budget, changes or {}, named=bool(named), estimate=True).estimate
    assert found is not None  # as it was asked for
    return found


def _asked(
    teacher: nn.Module,
    shape: InputSpec | tuple[int, int, int],
    bits: Bits | None,
    *,
    weights: int,
    activations: int | None,
    recipe: Recipe | str,
    dataset: str | None,
    method: str,
    changes: Mapping[str, Any] | None,
    device: torch.device | str | None,
    out: Path | str | None,
    images: Images | Loader | None,
    test: Labelled | None,
    evaluation_batch: int,
    execution: Execution | None,
    world: World | None,
    seed: int = 0,
) -> tuple[Asked, dict[str, Any]]:
    """Arguments that fit each other, and method and preset where these have names."""
    check_range("evaluation_batch", evaluation_batch, 1)
    if bits is None:
        bits = Bits(weights, activations)
    elif (weights, activations) != (4, 4):
        raise ValueError("bits says the widths, and weights or activations say others: give the one or the others")
    out = None if out is None else as_path("out", out)
    if not isinstance(shape, InputSpec):
        check_image_size("shape", shape)
        shape = infer_shape(teacher, shape)
    images, test = as_images(images), as_image_set(test, shape)
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
    bits = with_ends(placed(bits, teacher), recipe, teacher, shape)
    world = join("cpu" if device is None else device) if world is None else world_on(world, device)
    execution = execution or Execution()
    found = Asked(teacher, shape, recipe, world, execution, bits, seed, images, test, out, evaluation_batch)
    return found, named


def _checked_work(asked: Asked) -> Work:
    """The phases, before any budget; a network that the loops would not compute as it is, is refused here."""
    work = Work.of(asked, asked.recipe)
    require_same_function(
        asked.teacher, work.prepared, work.student, asked.recipe, asked.shape, asked.execution, work.device
    )
    return work


def _result(work: Work, images: Images | None, result: dict[str, Any]) -> QuantizationResult:
    return QuantizationResult(work.student, images, result, work.shape, work.teacher, work.prepared, work.out)
