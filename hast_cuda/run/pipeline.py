"""From a pretrained network to a fine-tuned quantized one, phase by phase, in a run directory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hast_cuda import methods
from hast_cuda.data import ImageSet
from hast_cuda.evaluate import evaluate
from hast_cuda.execution import Execution
from hast_cuda.finetune import finetune
from hast_cuda.finetune.calibration import calibrate_student
from hast_cuda.finetune.checkpoint import CheckpointFile
from hast_cuda.finetune.together import spread_student
from hast_cuda.methods import Recipe
from hast_cuda.nn import Override, quantize, shrink_ranges
from hast_cuda.posttraining import finish, prepare
from hast_cuda.ranks import World, join
from hast_cuda.run.directory import RunDirectory, plain
from hast_cuda.run.inputs import check_images, infer_shape
from hast_cuda.run.phases import Phases
from hast_cuda.run.sources import check_source, labels_for, make_trainer, search_images
from hast_cuda.run.student import load_weights
from hast_cuda.run.tensorboard import require_tensorboard
from hast_cuda.run.together import check_same_work
from hast_cuda.synthesis import ImageShape, ImageStore, SyntheticImages, synthesize
from hast_cuda.tensor_files import save_tensors


@dataclass(frozen=True)
class Bits:
    """What to quantize to; see :func:`hast_cuda.quantize`."""

    weights: int = 4
    """Of every convolution and linear layer, 2 to 8."""
    activations: int | None = 4
    """2 to 8; None leaves activations as they are."""
    placement: str = "relu"
    """"relu" (outputs of ReLU modules) or "all" (inputs of layers)."""
    overrides: Mapping[str, Override] = field(default_factory=dict)
    """Other bits for the layers that match a pattern; the last match wins."""


@dataclass
class QuantizationResult:
    """The quantized network, its images if any are kept, and the figures of ``result.json``."""

    student: nn.Module
    """The quantized network, after the last iteration."""
    images: SyntheticImages | None
    """What it was trained on; None where a generator made images, or none were needed."""
    result: dict[str, Any]
    """Accuracies in percent, seconds per phase, and what was asked for."""


def zero_shot_quantize(
    teacher: nn.Module, shape: ImageShape | tuple[int, int, int], bits: Bits | None = None, *,
    recipe: Recipe | str = "default", dataset: str = "cifar10", method: str = "hast",
    seed: int = 0, device: torch.device | str = "cpu", out: Path | str | None = None,
    images: SyntheticImages | None = None, test: ImageSet | None = None,
    describe: Mapping[str, Any] | None = None, evaluation_batch: int = 256,
    execution: Execution | None = None, tensorboard: bool = False, world: World | None = None,
) -> QuantizationResult:  # fmt: skip
    """Quantize ``teacher`` without its data: synthesise, calibrate, fine-tune (Algorithm 1).

    Several processes that torchrun started, each with this call, share the work and get the same
    result; rank 0 alone writes, logs and evaluates. The number of processes may differ between the
    attempts of a run.

    Args:
        teacher: pretrained network with BatchNorm; never edited.
        shape: its input and classes, or its input (C, H, W).
        bits: widths and placement; default 4 and 4.
        recipe: a :class:`Recipe`, or the name of a preset of ``method`` for ``dataset``.
        dataset: the kind of images, for a preset's name: "cifar10", "cifar100" or "imagenet".
        method: for a preset's name; one of :func:`hast_cuda.methods.available`.
        seed: of everything random.
        device: where to compute.
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
        world: the processes; default :func:`hast_cuda.ranks.join` on ``device``, else its device
            counts. ``World(device=...)`` keeps this process to itself.

    Raises:
        ValueError, TypeError: bad arguments, or others than those of the other processes, before
            any work. RankLostError: another process died. ImportError: no tensorboard.
        FloatingPointError: a loss that is not finite.
        OSError: the directory cannot be written.
    """
    if not isinstance(teacher, nn.Module):
        message = f"teacher must be an nn.Module, got {type(teacher).__name__}"
        raise TypeError(message)
    if tensorboard and out is None:
        message = "tensorboard=True writes to the run directory: give out"
        raise ValueError(message)
    if tensorboard:
        require_tensorboard()
    world, bits, execution = world or join(device), bits or Bits(), execution or Execution()
    device = world.device
    described = {"bits": bits, "seed": seed, **(describe or {})}
    if isinstance(recipe, str):
        chosen = methods.recipe(method, recipe, dataset)
        described = {"method": method, "preset": recipe, **described}
    else:
        chosen = recipe
    shape = shape if isinstance(shape, ImageShape) else infer_shape(teacher, shape)
    check_source(chosen, teacher, images, shape)
    prepared = prepare(teacher, chosen.posttraining)
    student = quantize(
        prepared, bits.weights, bits.activations, placement=bits.placement,
        overrides=bits.overrides, ema=chosen.finetune.ema,
    ).to(device)  # fmt: skip
    config = {**described, "shape": shape, "recipe": chosen, "execution": execution}
    check_same_work(
        world, config, teacher, images, out=None if out is None else str(out),
        test_images=None if test is None else len(test), tensorboard=tensorboard,
    )  # fmt: skip
    run: RunDirectory | None = None  # of rank 0

    def open_directory() -> None:
        nonlocal run
        if out is not None:
            run = RunDirectory(Path(out), config, device, tensorboard=tensorboard, ranks=world.size)

    world.on_first(open_directory)
    with run or nullcontext():
        phases = Phases(None)

        def look() -> dict[str, Any] | None:
            """What earlier attempts left; rank 0's phases go on with theirs."""
            nonlocal phases
            phases = Phases(run)
            return None if run is None else run.result()

        def log(record: dict[str, Any]) -> None:
            if run is not None:
                run.log(record)
                phases.keep()

        def top1(network: nn.Module) -> float:
            assert test is not None
            return evaluate(network, test, batch_size=evaluation_batch, device=device)

        def accuracy(network: nn.Module) -> float | None:
            return None if test is None else world.on_first(lambda: top1(network))

        store = None if out is None else ImageStore(Path(out) / "images")

        def make_images() -> SyntheticImages:
            return synthesize(
                teacher, shape, chosen.synthesis, seed=seed, device=device, log=log, store=store,
                execution=execution, world=world,
            )  # fmt: skip

        if (found := world.on_first(look)) is not None:
            if images is None and world.on_first(lambda: store is not None and store.finished()):
                images = make_images()  # what was deleted or is damaged
            return _finished(run, student, images, found, world)
        with phases("synthesis"):
            if images is None and chosen.images == "synthetic":
                images = make_images()
                check_images(images, shape)
        if run is not None and images is not None:
            run.show(images.images)
        trainer = make_trainer(chosen, teacher, shape, seed=seed, device=device)
        training = trainer if images is None else images.images

        def find_ranges() -> None:
            calibrate_student(
                teacher, student, training, chosen.finetune, num_classes=shape.num_classes,
                seed=seed, device=device, width=chosen.posttraining.range_width,
            )  # fmt: skip
            finish(student, prepared.to(device), chosen.posttraining)

        def shrink() -> None:
            shrink_ranges(student, search_images(images, trainer).to(device))

        with phases("calibration"):
            world.on_first(find_ranges)
        with phases("evaluation"):
            full_precision, rounded = accuracy(teacher), accuracy(student)
        start = rounded
        if chosen.finetune.shrink_ranges:
            with phases("range search"):
                world.on_first(shrink)
            with phases("evaluation"):
                start = accuracy(student)
        spread_student(student, world)
        seen: list[float] = []
        if chosen.finetune.iterations and training is not None:
            with phases("finetuning"):
                done = finetune(
                    teacher, student, training, chosen.finetune,
                    labels=labels_for(chosen.finetune, images), seed=seed, device=device, log=log,
                    evaluate=None if test is None else top1,
                    checkpoint=None if run is None else CheckpointFile(run.checkpoint),
                    execution=execution, world=world,
                )  # fmt: skip
            seen = [top1 for _, top1 in done.accuracies]

        def conclude() -> dict[str, Any]:
            result: dict[str, Any] = plain({
                **described,
                "full_precision": full_precision,
                "rounded": rounded,
                "start_of_finetuning": start,
                "quantized": seen[-1] if seen else start,
                "quantized_best_epoch": max(seen) if seen else start,
                "num_test_images": None if test is None else len(test),
                "num_images": None if images is None else len(images),
                "synthesis_iterations": chosen.synthesis.iterations,
                "finetune_iterations": chosen.finetune.iterations,
                "seconds": phases.seconds,
            })  # fmt: skip
            if run is not None:
                save_student(student, run.student, described)
                run.finish(result)
            return result

        return QuantizationResult(student, images, world.on_first(conclude))


def _finished(
    run: RunDirectory | None, student: nn.Module, images: SyntheticImages | None,
    result: dict[str, Any], world: World,
) -> QuantizationResult:  # fmt: skip
    """What a run that is over gave; rank 0 reads the student."""

    def load() -> None:
        assert run is not None
        if images is not None:
            run.show(images.images)
        load_weights(student, run.student)

    world.on_first(load)
    spread_student(student, world)
    return QuantizationResult(student, images, result)


def save_student(student: nn.Module, path: Path, described: Mapping[str, Any]) -> None:
    """Write the state dict of the quantized network; the metadata says how it was made."""
    tensors = {  # clone: safetensors refuses tensors that share memory (a shared module)
        k: v.detach().cpu().clone(memory_format=torch.contiguous_format)
        for k, v in student.state_dict().items()
    }
    metadata = {k: str(v) for k, v in described.items()}
    save_tensors(path, tensors, metadata)
