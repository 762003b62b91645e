"""From a pretrained network to a fine-tuned quantized one, phase by phase, in a run directory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hast_cuda.data import ImageSet
from hast_cuda.evaluate import evaluate
from hast_cuda.execution import Execution
from hast_cuda.files import replace_file
from hast_cuda.finetune import finetune
from hast_cuda.finetune.calibration import calibrate_student
from hast_cuda.finetune.checkpoint import CheckpointFile
from hast_cuda.methods import Recipe, preset
from hast_cuda.nn import Override, quantize, require_batch_norm, shrink_ranges
from hast_cuda.run.directory import RunDirectory
from hast_cuda.synthesis import ImageShape, ImageStore, SyntheticImages, synthesize

SEARCH_IMAGES = 256  # one batch is enough for the error of a range


@dataclass(frozen=True)
class Bits:
    """What to quantize to; see :func:`hast_cuda.quantize`."""

    weights: int = 4
    activations: int | None = 4
    placement: str = "relu"
    overrides: Mapping[str, Override] = field(default_factory=dict)


@dataclass
class QuantizationResult:
    """The quantized network, its synthetic images, and the figures of ``result.json``."""

    student: nn.Module
    images: SyntheticImages
    result: dict[str, Any]


def infer_shape(teacher: nn.Module, size: tuple[int, int, int]) -> ImageShape:
    """The teacher's shape with its number of classes, from one forward pass on [1, C, H, W] zeros.

    Raises:
        ValueError: the network does not take images of this size, or gives no [N, classes] logits.
    """
    parameter = next(teacher.parameters(), None)
    training = teacher.training
    try:
        with torch.no_grad():
            device = None if parameter is None else parameter.device
            logits = teacher.eval()(torch.zeros(1, *size, device=device))
    except RuntimeError as error:
        message = f"the network does not take images of shape {size}: {error}"
        raise ValueError(message) from error
    finally:
        teacher.train(training)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        message = f"the network gives {shape}; expected logits [N, classes]"
        raise ValueError(message)
    return ImageShape(*size, logits.shape[1])


class _Phases:
    """Seconds per phase, summed over the attempts of a run (one that was killed does not count)."""

    def __init__(self, run: RunDirectory | None) -> None:
        self.run = run
        self.seconds: dict[str, float] = {} if run is None else run.recall().get("seconds", {})

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[name] = round(self.seconds.get(name, 0.0) + elapsed, 3)
            if self.run is not None:
                self.run.remember("seconds", self.seconds)


def zero_shot_quantize(
    teacher: nn.Module, shape: ImageShape | tuple[int, int, int], bits: Bits | None = None, *,
    recipe: Recipe | str = "default", dataset: str = "cifar10", seed: int = 0,
    device: torch.device | str = "cpu", out: Path | str | None = None,
    images: SyntheticImages | None = None, test: ImageSet | None = None,
    describe: Mapping[str, Any] | None = None, evaluation_batch: int = 256,
    execution: Execution | None = None,
) -> QuantizationResult:  # fmt: skip
    """Quantize ``teacher`` without its data: synthesise, calibrate, fine-tune (Algorithm 1).

    Args:
        teacher: pretrained network with BatchNorm; never edited.
        shape: its input and classes, or its input (C, H, W).
        bits: widths and placement; default 4 and 4.
        recipe: a :class:`Recipe`, or the name of a preset for ``dataset``.
        dataset: the kind of images, for a preset's name: "cifar10", "cifar100" or "imagenet".
        seed: of everything random.
        device: where to compute.
        out: run directory; None keeps nothing. The same call continues an unfinished run.
        images: use these instead of synthesising.
        test: real images to report accuracy on; never used for training or choosing.
        describe: more entries for ``config.json`` and ``result.json`` (network, preset, ...).
        evaluation_batch: images per forward pass of an evaluation.
        execution: precision, memory layout, CUDA graphs; default :class:`Execution`.

    Raises:
        ValueError, TypeError: bad arguments, before any work.
        FloatingPointError: a loss that is not finite.
        OSError: the directory cannot be written.
    """
    if not isinstance(teacher, nn.Module):
        message = f"teacher must be an nn.Module, got {type(teacher).__name__}"
        raise TypeError(message)
    bits, device, execution = bits or Bits(), torch.device(device), execution or Execution()
    chosen = preset(recipe, dataset) if isinstance(recipe, str) else recipe
    shape = shape if isinstance(shape, ImageShape) else infer_shape(teacher, shape)
    described = {"bits": bits, "seed": seed, **(describe or {})}
    if isinstance(recipe, str):
        described.setdefault("preset", recipe)
    student = quantize(
        teacher, bits.weights, bits.activations, placement=bits.placement,
        overrides=bits.overrides, ema=chosen.finetune.ema,
    ).to(device)  # fmt: skip
    if images is not None:
        check_images(images, shape)
    if images is None or chosen.finetune.calibration == "generator":
        require_batch_norm(teacher)
    config = {**described, "shape": shape, "recipe": chosen, "execution": execution}
    run = None if out is None else RunDirectory(Path(out), config, device)
    log = (lambda _: None) if run is None else run.log
    phases = _Phases(run)

    def accuracy(network: nn.Module) -> float | None:
        if test is None:
            return None
        return evaluate(network, test, batch_size=evaluation_batch, device=device)

    with phases("synthesis"):
        if images is None:
            images = synthesize(
                teacher, shape, chosen.synthesis, seed=seed, device=device, log=log,
                store=None if run is None else ImageStore(run.images), execution=execution,
            )  # fmt: skip
    check_images(images, shape)
    with phases("calibration"):
        calibrate_student(
            teacher, student, images.images, chosen.finetune,
            num_classes=shape.num_classes, seed=seed, device=device,
        )  # fmt: skip
    with phases("evaluation"):
        full_precision, rounded = accuracy(teacher), accuracy(student)
    start = rounded
    if chosen.finetune.shrink_ranges:
        with phases("range search"):
            shrink_ranges(student, images.images[:SEARCH_IMAGES].to(device))
        with phases("evaluation"):
            start = accuracy(student)
    with phases("finetuning"):
        done = finetune(
            teacher, student, images.images, chosen.finetune, seed=seed, device=device, log=log,
            evaluate=None if test is None else lambda network: accuracy(network) or 0.0,
            checkpoint=None if run is None else CheckpointFile(run.checkpoint),
            execution=execution,
        )  # fmt: skip
    seen = [top1 for _, top1 in done.accuracies]
    result = {
        **described,
        "full_precision": full_precision,
        "rounded": rounded,
        "start_of_finetuning": start,
        "quantized": seen[-1] if seen else start,
        "quantized_best_epoch": max(seen) if seen else start,
        "num_test_images": None if test is None else len(test),
        "num_synthetic_images": len(images),
        "synthesis_iterations": chosen.synthesis.iterations,
        "finetune_iterations": chosen.finetune.iterations,
        "seconds": phases.seconds,
    }
    if run is not None:
        save_student(done.student, run.student, described)
        run.finish(result)
    return QuantizationResult(done.student, images, result)


def check_images(images: SyntheticImages, shape: ImageShape) -> None:
    """ValueError unless the images fit the network's input and classes."""
    expected = (shape.channels, shape.height, shape.width)
    found = images.images
    if not len(found) or tuple(found.shape[1:]) != expected or found.dtype != torch.float32:
        message = (
            f"synthetic images are {list(found.shape)} {found.dtype}; expected "
            f"[N, {', '.join(map(str, expected))}] torch.float32"
        )
        raise ValueError(message)
    if len(found) != len(images.labels):
        message = f"there are {len(found)} synthetic images and {len(images.labels)} labels"
        raise ValueError(message)
    if int(images.labels.min()) < 0 or int(images.labels.max()) >= shape.num_classes:
        message = (
            f"labels go from {int(images.labels.min())} to {int(images.labels.max())}; the network "
            f"has {shape.num_classes} classes"
        )
        raise ValueError(message)
    if not bool(torch.isfinite(found).all()):
        message = "synthetic images contain NaN or infinity; delete the shards and run again"
        raise ValueError(message)


def save_student(student: nn.Module, path: Path, described: Mapping[str, Any]) -> None:
    """Write the state dict of the quantized network; the metadata says how it was made."""
    tensors = {  # clone: safetensors refuses tensors that share memory (a shared module)
        k: v.detach().cpu().clone(memory_format=torch.contiguous_format)
        for k, v in student.state_dict().items()
    }
    metadata = {k: str(v) for k, v in described.items()}
    with replace_file(path) as temporary:
        save_file(tensors, temporary, metadata)
