"""Algorithm 1, second half: the student follows the teacher on images made harder for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import check_images, check_trainable
from hast_cuda.finetune.agreement import HeldOutImages
from hast_cuda.finetune.batches import Batches, hold_out, make_batches
from hast_cuda.finetune.checkpoint import Checkpoint, CheckpointFile
from hast_cuda.finetune.config import FinetuneConfig
from hast_cuda.finetune.objective import TERMS
from hast_cuda.finetune.optimizer import WeightAverage
from hast_cuda.finetune.processes import agree_on_steps, check_equal, resume, spread_student
from hast_cuda.finetune.step import FinetuneStep, ReplayedStep
from hast_cuda.finetune.watch import Evaluate, Log, Watch
from hast_cuda.generator.trainer import GeneratorTrainer
from hast_cuda.loops.allocator import freed_memory_kept
from hast_cuda.loops.execution import Execution, convolution_rules
from hast_cuda.loops.finite import FiniteGuard
from hast_cuda.loops.memory import explained_memory
from hast_cuda.loops.modes import frozen_copy, with_gradients
from hast_cuda.loops.progress import Progress, log_interval, look_interval
from hast_cuda.loops.stop import stop_noticed
from hast_cuda.networks.blocks import feature_layers
from hast_cuda.networks.ends import find_head
from hast_cuda.ranks import World
from hast_cuda.ranks.world import world_on

LOG_EVERY = 50  # iterations between reads of the device, at most
UNIT_IMAGES = 256  # on which the terms are measured that others are balanced against


@dataclass
class FinetuneResult:
    """The student that is kept, and what was seen on the way.

    Example:
        >>> FinetuneResult(hc.load_teacher("digits")).accuracies
        []
    """

    student: nn.Module
    """The network that was given, trained."""
    accuracies: list[tuple[int, float]] = field(default_factory=list)
    """(iterations done, top-1 in percent), in order."""
    agreements: list[tuple[int, float, float, float]] = field(default_factory=list)
    """(iterations done, divergence, same class in percent, divergence on parts) on the images held
    out, in order, from the start on; see :class:`Agreement`."""
    kept_iteration: int | None = None
    """Iterations that the student of ``keep="best"`` had behind it; None: the last one counts."""


@typed
@with_gradients
@freed_memory_kept()
def finetune(
    teacher: nn.Module,
    student: nn.Module,
    images: Tensor | GeneratorTrainer,
    config: FinetuneConfig,
    *,
    labels: Tensor | None = None,
    held_out: Tensor | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    evaluate: Evaluate | None = None,
    checkpoint: CheckpointFile | None = None,
    log: Log = lambda _: None,
    layers: list[str] | None = None,
    original: nn.Module | None = None,
    execution: Execution | None = None,
    world: World | None = None,
) -> FinetuneResult:
    """Fine-tune a calibrated student on synthetic images (Algorithm 1, second loop).

    Both networks stay in eval mode: BatchNorm statistics and activation ranges never change.

    Args:
        teacher: full-precision network; copied, never edited.
        student: from :func:`hast_cuda.quantize`, calibrated; trained in place.
        images: [N, C, H, W] float32, normalised, cropped and mirrored anew each time; or the
            trainer of a generator, which makes them as they are and takes a step of its own in
            every iteration (outside the CUDA graph of the student's).
        config: budget and objective.
        labels: of stored images, where ``config.uses_labels``: [N] int64, or probabilities
            [N, classes].
        held_out: images [M, C, H, W] that the student is compared on with the teacher; default the
            fraction ``config.held_out`` of stored images, which are then not trained on.
        seed: order and augmentation; the state after a resume equals that of an unbroken run.
        device: where to compute; default the world's, which is the CPU for one process.
        evaluate: test top-1 of the student, called ``config.evaluations`` times.
        checkpoint: state after every evaluation (the generator's too), found on the next call. Of one
            process also at the first SIGINT or SIGTERM, which then ends the call after the present step.
        log: gets a dict of metrics every 50 iterations, in short runs every twentieth of them, in runs of
            more than 100,000 less often (at most 2,001 times), and after evaluations.
        layers: feature layers; default :func:`feature_layers` of the teacher. The alignment "cam" has
            the map before the classifier, whatever is given.
        original: network that the channels of ``teacher`` were scaled from, as by
            :func:`hast_cuda.posttraining.equalize_activations`, its parameters under the same names; steps are
            then as long beside the parameters as its own would be. Default: none were scaled.
        execution: how to compute; default :class:`Execution`.
        world: processes that each take a part of every batch, each on its device; gradients are
            summed, so the step is that of one process up to rounding. All need the same images and
            get the student of rank 0, which alone evaluates, logs and keeps the state.

    Raises:
        FloatingPointError: a loss that is not finite, naming the iteration.
        torch.OutOfMemoryError: with the peak and a batch size that should fit.
        ValueError: feature layers that the networks do not have, or not the head that class
            activation maps need; no images, or some that they do not take; labels that are missing
            or do not fit; a generator with another batch size or device; other arguments than those
            of the other processes, or a device that is not the world's.
        RuntimeError: the processes' students are not the same bits.

    Example:
        >>> teacher, images = hc.load_teacher("digits"), torch.randn(8, 1, 8, 8)
        >>> student = hc.calibrate(hc.quantize(teacher, 4, 4), [images])
        >>> config = hc.finetune.FinetuneConfig(iterations=2, batch_size=4)
        >>> finetune(teacher, student, images, config).student is student
        True
    """
    world, execution = world_on(world, device), execution or Execution()
    device = world.device
    if held_out is None and isinstance(images, Tensor) and images.dim():
        images, labels, held_out = hold_out(images, labels, config.held_out)
    if held_out is not None:
        check_images("held_out", held_out)
    if config.keep == "best" and held_out is None and isinstance(images, GeneratorTrainer):
        raise ValueError('keep is "best": give held_out, images that the student is compared on')
    batches = make_batches(images, labels, config, seed, device, world)
    agree_on_steps(world, batches, config, seed)
    check_trainable("student", student)
    frozen = execution.network(frozen_copy(teacher, device))
    student = execution.network(student.to(device).eval().requires_grad_(True))
    batches.check_network(frozen)
    batches.check_network(student)
    layers = layers or feature_layers(frozen)
    if config.feature_weight and not layers and not config.uses_maps_of_classes:
        raise ValueError(
            "the network has no BatchNorm layer to align features at: name layers, or set feature_weight to 0"
        )
    head = find_head(frozen, batches.shape) if config.uses_maps_of_classes else None
    sample = batches.sample(UNIT_IMAGES) if config.balance == "start" else None
    step = FinetuneStep(frozen, student, layers, config, execution, head, original)
    interval = max(1, -(-config.iterations // config.evaluations))
    look = look_interval(config.iterations, LOG_EVERY)
    every = log_interval(config.iterations, look)
    kept = "Nothing was kept (no directory)."
    if world.on_first(lambda: checkpoint is not None):
        kept = "Images and the last checkpoint are kept."
    memory = explained_memory("fine-tuning", config.batch_size, "finetune.batch_size", kept, device)
    running = student, step.optimizer, batches.trainer

    def save(state: Checkpoint) -> None:
        state.average = average.state()
        if checkpoint is not None:
            checkpoint.save(state, *running)

    try:
        alone = world.size == 1 and checkpoint is not None  # several processes would have to agree when
        with convolution_rules(execution), memory, stop_noticed(saves=alone) as stop:
            state = resume(checkpoint, *running, config.iterations, world)
            average = WeightAverage(step.parameters, config)
            average.load(state.average)
            judge = None if held_out is None else HeldOutImages(frozen, held_out.to(device))
            best = config.keep == "best" and judge is not None
            hooks: dict[str, Any] = {"evaluate": evaluate, "save": save, "log": log}
            watch = Watch(student, state, judge, best=best, restarts=config.restarts, world=world, **hooks)
            if sample is not None:
                state.units = state.units or world.on_first(lambda: step.measure(*sample))
                step.balance(state.units)
            watch.begin()

            def attempt() -> None:
                """All steps that are left, or those until the first look finds the rate too high."""
                guard = FiniteGuard("fine-tuning", device, state.iteration)
                update = ReplayedStep(step, guard, world)
                quiet = not world.first
                with Progress("fine-tuning", config.iterations, done=state.iteration, quiet=quiet) as progress:
                    for iteration, batch in batches.during(range(state.iteration, config.iterations)):
                        step.set_rates(iteration, watch.share)
                        update(batch)
                        average.add(iteration)
                        progress.update()
                        done = iteration + 1
                        last = done == config.iterations
                        looked = done % interval == 0 or last
                        if iteration % look == 0 or looked:
                            batches.check()
                            guard.check(done, *(step.parameters if looked else ()))
                            if world.first and (iteration % every == 0 or last):
                                log(_metrics(iteration, update, batches))
                        if last:
                            average.finish()
                        if looked:
                            check_equal(student, done, world)
                            watch(done)
                            if watch.too_fast:
                                return
                        if (end := stop.now()) is not None:
                            if not looked:
                                state.iteration = done
                                save(state)
                            raise end

            while watch.too_fast or state.iteration < config.iterations:
                if watch.too_fast:
                    watch.begin_again()
                    spread_student(student, world)
                    step.optimizer.state.clear()
                    average.forget()
                attempt()
            watch.keep_closest()
        spread_student(student, world)
    finally:
        step.close()
        student.zero_grad(set_to_none=True)  # of the last step: memory, and they would count in a next one
    return FinetuneResult(student, state.accuracies, state.agreements, watch.kept_iteration)


def _metrics(iteration: int, update: ReplayedStep, batches: Batches) -> dict[str, float | int | str]:
    """What is logged of an iteration; reads the device."""
    found: dict[str, float | int | str] = {"phase": "finetune", "iteration": iteration}
    terms = zip(TERMS, update.step.factors, update.terms, strict=False)
    found |= {name: weight * float(term) for name, weight, term in terms}
    return found | {"learning_rate": float(update.step.rate)} | batches.metrics()
