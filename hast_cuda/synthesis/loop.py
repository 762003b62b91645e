"""Algorithm 1, first half: noise becomes hard images of the teacher's data."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from tqdm import tqdm

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import (
    as_device,
    check_values,
)
from hast_cuda.data import Images, InputSpec
from hast_cuda.files.tensors import DamagedFileError
from hast_cuda.files.whole import sweep
from hast_cuda.loops.crops import CropStream
from hast_cuda.loops.execution import Execution, convolution_rules
from hast_cuda.loops.log_interval import log_interval
from hast_cuda.loops.memory import explained_memory
from hast_cuda.loops.seeding import generator
from hast_cuda.merged import BatchStatistics
from hast_cuda.ranks import World
from hast_cuda.synthesis.config import SynthesisConfig
from hast_cuda.synthesis.draws import draw_labels, draw_noise, draw_targets
from hast_cuda.synthesis.owners import Records, agree, collected, owners
from hast_cuda.synthesis.step import Step
from hast_cuda.synthesis.store import ImageStore
from hast_cuda.synthesis.terms import Terms, has_margins, make_terms

if TYPE_CHECKING:
    from typing_extensions import Never

LOG_EVERY = 50  # iterations between reads of the device
Log = Callable[[dict[str, float | int | str]], None]


def synthesize_batch(
    step: Step, labels: Tensor, seed: int, batch: int, log: Log, progress: tqdm[Never]
) -> Tensor:
    """Optimise one batch of noise by Eq. 9, or the loss that the configuration makes of it.

    Returns:
        [N, C, H, W] float32 on the device of ``step``.

    Raises:
        FloatingPointError: the loss stopped being finite; names the batch and the iteration.
    """
    config, (count, channels, height, width) = step.config, step.images.shape
    noise = draw_noise(config, (count, channels, height, width), seed, batch)
    soft = config.label_loss == "soft"
    targets = draw_targets(config, count, seed, batch) if soft else None
    step.start(noise, labels, f"synthesis of batch {batch}", targets)
    draws = torch.rand(config.iterations, generator=generator(seed, "coin", batch))
    coins = (draws < config.augment_probability).tolist()
    crops = CropStream(
        count, (height, width), config.crop_scale, 0.5, step.images.device, seed, "crop", batch
    )
    every = log_interval(config.iterations * -(-config.num_images // config.batch_size), LOG_EVERY)
    for iteration, cropped in enumerate(coins):
        step(crops.at(iteration) if cropped else None)
        progress.update()
        last = iteration == config.iterations - 1
        if iteration % LOG_EVERY == 0 or last:
            step.guard.check(iteration + 1)
        if iteration % every == 0 or last:
            log({
                "phase": "synthesis", "batch": batch, "iteration": iteration,
                **{name: float(value) for name, value in step.figures.items()},
                "learning_rate": float(step.schedule.learning_rate),
            })  # fmt: skip
    step.guard.check(config.iterations, step.images.detach())
    return step.images.detach().clone(memory_format=torch.contiguous_format)


def _stored(store: ImageStore, index: int, labels: Tensor, shape: InputSpec) -> Tensor | None:
    """Images of a batch made before, None where they are damaged and must be made again.

    Raises:
        ValueError: they are not those of this run.
    """
    expected = (len(labels), shape.channels, shape.height, shape.width)
    try:
        batch = store.load(index)
    except DamagedFileError as error:
        warnings.warn(f"{error}. It is made again now", RuntimeWarning, stacklevel=7)
        return None
    if tuple(batch.images.shape) != expected or not torch.equal(batch.labels, labels):
        message = (
            f"shard {store.path(index)} belongs to another run: its images are "
            f"{list(batch.images.shape)} (here {list(expected)}) or its labels differ; give "
            "another directory, or the options it was made with"
        )
        raise ValueError(message)
    return batch.images


def _found(
    store: ImageStore | None, batches: Sequence[Tensor], shape: InputSpec
) -> dict[int, Tensor]:
    """Images of the whole batches of a store, by number, after what killed processes left is gone.

    Args:
        store: of a run, or None.
        batches: the labels of each.
        shape: of the images.
    """
    if store is None:
        return {}
    sweep(store.directory)
    found = {}
    for index in sorted(store.finished() & set(range(len(batches)))):
        if (images := _stored(store, index, batches[index], shape)) is not None:
            found[index] = images
    return found


@typed
def synthesize(
    teacher: nn.Module, shape: InputSpec, config: SynthesisConfig, *, seed: int = 0,
    device: torch.device | str = "cpu", store: ImageStore | None = None,
    log: Log = lambda _: None, execution: Execution | None = None, world: World | None = None,
) -> Images:  # fmt: skip
    """Make ``config.num_images`` images from ``teacher`` alone (Algorithm 1, first loop).

    Args:
        teacher: pretrained network with BatchNorm; copied, never edited.
        shape: its input and number of classes.
        config: budget and objective.
        seed: every batch has its own stream derived from it. With margins (IntraQ), and only then,
            a batch depends on others: its classes' mean features are those of the batches before.
        device: where to compute.
        store: keeps each finished batch; finished batches found there are not made again, damaged
            ones are, with a RuntimeWarning. Margins take the features of their images anew, so a
            run that was cut off ends as if it was not.
        log: called with a dict of figures every 50 iterations of a batch and after its last one; in
            runs of more than 100,000 less often (:mod:`hast_cuda.loops.log_interval`).
        execution: how to compute; default :class:`Execution`.
        world: processes that make batches by turns, each on its device; all get all images, equal
            to those of one process. Rank 0 reads the store and logs; with margins it works alone,
            since every batch waits for the one before.

    Returns:
        Images [N, C, H, W] float32 in the teacher's input space and labels [N] int64, on the CPU.

    Raises:
        ValueError: no BatchNorm, a store of another run, margins for a network whose classifier
            cannot be found, or other arguments than those of the other processes.
        FloatingPointError: a loss that is not finite.
        torch.OutOfMemoryError: with the peak and a batch size that should fit.
    """
    device, execution = as_device(device), execution or Execution()
    check_values("teacher", teacher)
    frozen = copy.deepcopy(teacher).to(device).eval().requires_grad_(False)
    statistics = BatchStatistics(
        execution.network(frozen), merge=execution.merge, segments=execution.checkpoint_segments
    )
    world = world or World()
    agree(world, teacher, shape, config, seed)
    labels = draw_labels(config, shape.num_classes, seed)
    batches = labels.split(config.batch_size)
    results: dict[int, Tensor] = {}

    def read() -> set[int]:
        """Rank 0's look into the store."""
        results.update(_found(store, batches, shape))
        return set(results)

    found = world.on_first(read)
    owner = owners(len(batches), found, world, dependent=has_margins(config))
    own = [index for index, rank in enumerate(owner) if rank == world.rank]
    last = max(set(own) - found, default=-1)  # to be made here
    terms: Terms | None = None
    steps: dict[int, Step] = {}  # by batch size: the last batch may be smaller
    records = Records(log, world)
    progress = tqdm(
        total=len(own) * config.iterations, desc="synthesis", unit="it",
        disable=None if world.first else True,
    )  # fmt: skip
    image_shape = (shape.channels, shape.height, shape.width)
    kept = "Finished batches are kept." if store is not None else "Nothing was kept (no directory)."
    memory = explained_memory("synthesis", config.batch_size, "synthesis.batch_size", kept, device)
    with convolution_rules(execution), progress, memory:
        if last >= 0:
            full = (len(batches[0]), *image_shape)
            terms = make_terms(statistics, full, config, execution, device, seed)
        for index in own:
            batch_labels = batches[index]
            if index in results:
                images = results[index]
                progress.update(config.iterations)
            else:
                size = len(batch_labels)
                if size not in steps:
                    steps[size] = Step(
                        statistics, (size, *image_shape), config, execution, device, terms
                    )
                images = synthesize_batch(
                    steps[size], batch_labels.to(device), seed, index, records, progress
                ).cpu()
                if store is not None:
                    store.save(index, Images(images, batch_labels))
            results[index] = images
            if terms is not None and terms.features is not None and index < last:
                terms.features.add(images, batch_labels)
    everything = collected(results, batches, owner, store, world)
    records.finish()
    return Images(everything, labels)
