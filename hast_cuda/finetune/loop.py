"""Algorithm 1, second half: the student follows the teacher on images made harder for it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from tqdm import tqdm

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_device, check_values, explained_forward
from hast_cuda.finetune.checkpoint import CheckpointFile
from hast_cuda.finetune.checks import check_classes, check_images
from hast_cuda.finetune.config import FinetuneConfig
from hast_cuda.finetune.iteration import Iteration
from hast_cuda.finetune.objective import loss_weights
from hast_cuda.finetune.source import GeneratedImages, Source, StoredImages
from hast_cuda.finetune.step import Step
from hast_cuda.finetune.together import agree, begin, check_equal
from hast_cuda.generator.trainer import GeneratorTrainer
from hast_cuda.loops.execution import Execution, convolution_rules
from hast_cuda.loops.finite import FiniteGuard
from hast_cuda.loops.log_interval import log_interval
from hast_cuda.loops.memory import explained_memory
from hast_cuda.networks.blocks import feature_layers
from hast_cuda.ranks import World

__all__ = ["FinetuneResult", "Iteration", "finetune"]

LOG_EVERY = 50  # iterations between reads of the device
Log = Callable[[dict[str, float | int | str]], None]
Evaluate = Callable[[nn.Module], float]


@dataclass
class FinetuneResult:
    """The student (last iteration), and test accuracies seen on the way as (iteration, top-1)."""

    student: nn.Module
    """The network that was given, trained."""
    accuracies: list[tuple[int, float]] = field(default_factory=list)
    """(iterations done, top-1 in percent), in order."""


class _Training:
    """Iterations in order, wherever their images come from."""

    def __init__(
        self, step: Step, images: Tensor | GeneratorTrainer, labels: Tensor | None, seed: int,
        start: int, world: World,
    ) -> None:  # fmt: skip
        self.step, self.config, self.start = step, step.config, start
        device = step.rate.device
        self.guard = FiniteGuard("fine-tuning", device)
        self.guard.reset("fine-tuning", start)
        self.source: Source
        if isinstance(images, GeneratorTrainer):
            self.source = GeneratedImages(step, images, self.guard, world)
        else:
            counted = labels if self.config.label_weight else None
            self.source = StoredImages(
                step, images.to(device), None if counted is None else counted.to(device),
                self.guard, seed, start, world,
            )  # fmt: skip

    def check(self, done: int, *results: Tensor) -> None:
        self.source.check()
        self.guard.check(done - self.start, *results)

    def figures(self, iteration: int) -> dict[str, float | int | str]:
        """Reads the device."""
        losses = {
            name: weight * float(term)
            for name, weight, term in zip(  # "label" is the one that may be missing
                ("distillation", "alignment", "label"), loss_weights(self.config),
                self.source.terms, strict=False,
            )
        }  # fmt: skip
        return {
            "phase": "finetune", "iteration": iteration, **losses,
            "learning_rate": self.config.rate(iteration), **self.source.figures(),
        }  # fmt: skip


@typed
def finetune(
    teacher: nn.Module, student: nn.Module, images: Tensor | GeneratorTrainer,
    config: FinetuneConfig, *, labels: Tensor | None = None, seed: int = 0,
    device: torch.device | str = "cpu", evaluate: Evaluate | None = None,
    checkpoint: CheckpointFile | None = None, log: Log = lambda _: None,
    layers: list[str] | None = None, execution: Execution | None = None,
    world: World | None = None,
) -> FinetuneResult:  # fmt: skip
    """Fine-tune a calibrated student on synthetic images (Algorithm 1, second loop).

    Both networks stay in eval mode: BatchNorm statistics and activation ranges never change.

    Args:
        teacher: full-precision network; copied, never edited.
        student: from :func:`hast_cuda.quantize`, calibrated; trained in place.
        images: [N, C, H, W] float32, normalised, cropped and mirrored anew each time; or the
            trainer of a generator, which makes them as they are and takes a step of its own in
            every iteration (outside the CUDA graph of the student's).
        config: budget and objective.
        labels: of stored images, where ``config.label_weight`` counts them: [N] int64, or
            probabilities [N, classes].
        seed: order and augmentation; the state after a resume equals that of an unbroken run.
        device: where to compute.
        evaluate: test top-1 of the student, called ``config.evaluations`` times.
        checkpoint: state kept after every evaluation interval (the generator's too), found again on
            the next call.
        log: called with a dict of figures every 50 iterations, in runs of more than 100,000 less
            often: at most 2,001 times, and after evaluations.
        layers: feature layers; default :func:`feature_layers` of the teacher.
        execution: how to compute; default :class:`Execution`.
        world: processes that each take a part of every batch, each on its device; gradients are
            summed, so the step is that of one process up to rounding. All need the same images and
            get the student of rank 0, which alone evaluates, logs and keeps the state.

    Raises:
        FloatingPointError: a loss that is not finite, naming the iteration.
        torch.OutOfMemoryError: with the peak and a batch size that should fit.
        ValueError: feature layers that the networks do not have; no images, or some that they do
            not take; labels that are missing or do not fit; a generator with another batch size or
            device; other arguments than those of the other processes.
        RuntimeError: the processes' students are not the same bits.
    """
    device, execution = as_device(device), execution or Execution()
    world = world or World()
    check_images(images, labels, config, device)
    agree(world, images, labels, config, seed)
    check_values("teacher", teacher)
    check_values("student", student)
    frozen = copy.deepcopy(teacher).to(device).eval().requires_grad_(False)
    frozen = execution.network(frozen)
    student = execution.network(student.to(device).eval().requires_grad_(True))
    if isinstance(images, Tensor):
        with explained_forward("images", images):
            logits = frozen(images[:1].to(device))
        if config.label_weight and labels is not None:
            check_classes(labels, logits.shape[1])
    layers = layers or feature_layers(frozen)
    if config.feature_weight and not layers:
        message = (
            "the network has no BatchNorm layer to align features at: name layers, or set "
            "feature_weight to 0"
        )
        raise ValueError(message)
    step = Step(frozen, student, layers, config, execution)
    trainer = images if isinstance(images, GeneratorTrainer) else None
    interval = max(1, -(-config.iterations // config.evaluations))
    every = log_interval(config.iterations, LOG_EVERY)
    kept = (
        "Images and the last checkpoint are kept."
        if world.on_first(lambda: checkpoint is not None)
        else "Nothing was kept (no directory)."
    )
    memory = explained_memory("fine-tuning", config.batch_size, "finetune.batch_size", kept, device)

    def look() -> list[tuple[int, float]]:
        """Rank 0's evaluation and checkpoint, after ``done`` iterations."""
        if evaluate is not None:
            state.accuracies.append((done, evaluate(student)))
            log({"phase": "test", "iteration": done, "top1": state.accuracies[-1][1]})
        if checkpoint is not None:
            state.iteration = done
            checkpoint.save(state, student, step.optimizer, trainer)
        return state.accuracies

    try:
        state = begin(checkpoint, student, step.optimizer, trainer, config.iterations, world)
        training = _Training(step, images, labels, seed, state.iteration, world)
        progress = tqdm(
            total=config.iterations, initial=state.iteration, desc="fine-tuning", unit="it",
            disable=None if world.first else True,
        )  # fmt: skip
        with convolution_rules(execution), progress, memory:
            for iteration in range(state.iteration, config.iterations):
                training.source.train(iteration)
                progress.update()
                done = iteration + 1
                if iteration % LOG_EVERY == 0 or done == config.iterations:
                    training.check(done)
                    if world.first and (iteration % every == 0 or done == config.iterations):
                        log(training.figures(iteration))
                if done % interval == 0 or done == config.iterations:
                    training.check(done, *step.parameters)
                    check_equal(student, done, world)
                    state.accuracies = world.on_first(look)
    finally:
        step.close()
    return FinetuneResult(student, state.accuracies)
