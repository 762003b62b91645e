"""Algorithm 1, first half: noise becomes hard images of the teacher's data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hast_cuda.checks.typed import typed
from hast_cuda.data import Images, InputSpec
from hast_cuda.loops.allocator import freed_memory_kept
from hast_cuda.loops.crops import CropStream
from hast_cuda.loops.execution import Execution, convolution_rules
from hast_cuda.loops.memory import explained_memory
from hast_cuda.loops.modes import frozen_copy, with_gradients
from hast_cuda.loops.progress import Progress, log_interval, look_interval
from hast_cuda.loops.seeding import generator
from hast_cuda.merged import BatchStatistics
from hast_cuda.networks.statistics import require_float32, require_trained
from hast_cuda.ranks import World
from hast_cuda.ranks.world import world_on
from hast_cuda.synthesis import batches as _batches
from hast_cuda.synthesis.batches import Log
from hast_cuda.synthesis.config import SynthesisConfig
from hast_cuda.synthesis.draws import draw_labels, draw_targets
from hast_cuda.synthesis.objective import make_objective
from hast_cuda.synthesis.source import check_source
from hast_cuda.synthesis.step import SynthesisStep
from hast_cuda.synthesis.store import ImageStore
from hast_cuda.synthesis.swing import Swing

LOG_EVERY = 50  # iterations between reads of the device, at most


def synthesize_batch(
    step: SynthesisStep, labels: Tensor, seed: int, index: int, log: Log, progress: Progress
) -> Tensor:
    """One batch of noise optimised by Eq. 9, or its configuration's; [N, C, H, W] on the CPU."""
    config, swing, (count, _, height, width) = step.config, step.swing, step.shape
    soft = config.label_loss == "soft"
    targets = draw_targets(config, count, seed, index) if soft else None
    step.start(step.source.draw(seed, index), labels, f"synthesis of batch {index}", targets)
    draws = torch.rand(config.iterations, generator=generator(seed, "coin", index))
    coins = (draws < config.augment_probability).tolist()
    choices, stream = (count, (height, width), config.crop_scale, 0.5), (seed, "crop", index)
    crops = CropStream(*choices, step.labels.device, *stream)
    if swing is not None:
        swing.start(seed, "swing", index)
    look = look_interval(config.iterations, LOG_EVERY)
    every = log_interval(config.iterations * -(-config.num_images // config.batch_size), look)
    for iteration, cropped in enumerate(coins):
        if swing is not None:
            swing.move(iteration)
        step(crops.at(iteration) if cropped else None)
        progress.update()
        last = iteration == config.iterations - 1
        if iteration % look == 0 or last:
            step.guard.check(iteration + 1)
        if iteration % every == 0 or last:
            found = step.metrics | {"learning_rate": step.schedule.learning_rate}
            place: dict[str, float | int | str] = {"phase": "synthesis", "batch": index, "iteration": iteration}
            log(place | {name: float(value) for name, value in found.items()})
    if swing is not None:
        swing.rest()
    images = step.images.detach()
    step.guard.check(config.iterations, images)
    return images.clone(memory_format=torch.contiguous_format).cpu()


@typed
@with_gradients
@freed_memory_kept()
def synthesize(
    teacher: nn.Module,
    shape: InputSpec,
    config: SynthesisConfig,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
    store: ImageStore | None = None,
    log: Log = lambda _: None,
    execution: Execution | None = None,
    world: World | None = None,
) -> Images:
    """Make ``config.num_images`` images from ``teacher`` alone (Algorithm 1, first loop).

    Args:
        teacher: pretrained network with BatchNorm; copied, never edited.
        shape: its input and number of classes; with 0 only statistics are matched, and labels are 0.
        config: budget and objective.
        seed: of every batch's own stream. With margins (IntraQ), and only then, a batch depends on
            others: its classes' mean features are those of the batches before.
        device: where to compute; default the world's, which is the CPU for one process.
        store: keeps each finished batch; those found there are not made again, damaged ones are,
            with a RuntimeWarning. A run that was cut off ends as if it was not.
        log: called with a dict of metrics every 50 iterations of a batch (20 times at least) and after its last one; in
            runs of more than 100,000 less often (:mod:`hast_cuda.loops.progress`).
        execution: how to compute; default :class:`Execution`.
        world: processes that make batches by turns, each on its device; all get all images, equal
            to those of one process. Rank 0 reads the store and logs; with margins it works alone,
            since every batch waits for the one before.

    Returns:
        Images [N, C, H, W] float32 in the teacher's input space and labels [N] int64, on the CPU.

    Raises:
        ValueError: no BatchNorm, a store of another run, margins for a network whose classifier
            cannot be found, images that no generator can grow, other arguments than those of the
            other processes, or a device that is not the world's.
        FloatingPointError: a loss that is not finite.
        torch.OutOfMemoryError: with the peak and a batch size that should fit.

    Example:
        >>> config = hc.synthesis.SynthesisConfig(num_images=4, batch_size=4, iterations=2)
        >>> synthesize(hc.load_teacher("digits"), hc.InputSpec(1, 8, 8, 10), config).images.shape
        torch.Size([4, 1, 8, 8])
    """
    world, execution = world_on(world, device), execution or Execution()
    device = world.device
    require_float32(teacher)
    require_trained(teacher)
    frozen, segments = frozen_copy(teacher, device), execution.checkpoint_segments
    swing = Swing(frozen, device) if config.swing else None
    frozen = execution.network(frozen if swing is None else swing.network)
    statistics = BatchStatistics(frozen, merge=execution.merge, segments=segments)
    _batches.agree_on_images(world, teacher, shape, config, seed)
    if not shape.num_classes and (config.label_weight or config.has_margins):
        raise ValueError(
            f"label_weight is {config.label_weight:g} and margins {config.margins}, of the images' classes, and the "
            "network classifies nothing: set label_weight to 0 and leave margins away"
        )
    labels = draw_labels(config, shape.num_classes, seed)
    batches = labels.split(config.batch_size)
    check_source(config, shape, batches)
    results: dict[int, Tensor] = {}

    def read() -> set[int]:
        """Rank 0's look into the store."""
        results.update(_batches.read_stored(store, batches, shape))
        return set(results)

    stored = world.on_first(read)
    owner = _batches.assign_batches(len(batches), stored, world, dependent=config.has_margins)
    own = [index for index, rank in enumerate(owner) if rank == world.rank]
    last = max(set(own) - stored, default=-1)  # to be made here
    size = (shape.channels, shape.height, shape.width)
    steps: dict[int, SynthesisStep] = {}  # by batch size: the last batch may be smaller
    gathered = _batches.GatheredLog(log, world)
    progress = Progress("synthesis", len(own) * config.iterations, quiet=not world.first)
    kept = "Finished batches are kept." if store is not None else "Nothing was kept (no directory)."
    memory = explained_memory("synthesis", config.batch_size, "synthesis.batch_size", kept, device)
    with convolution_rules(execution), progress, memory:
        if last >= 0:
            full = (len(batches[0]), *size)
            objective = make_objective(statistics, full, config, execution, device, seed, swing)
        for index in own:
            count = len(batches[index])
            if index in stored:
                progress.update(config.iterations)
            else:
                if count not in steps:
                    steps[count] = SynthesisStep(objective, (count, *size), execution, device)
                given = batches[index], seed, index, gathered, progress
                results[index] = synthesize_batch(steps[count], *given)
                if store is not None:
                    store.save(index, Images(results[index], batches[index]))
            if index < last and objective.features is not None:
                objective.features.add(results[index], batches[index])
    images = _batches.gather_images(results, batches, owner, store, world)
    gathered.finish()
    return Images(images, labels)
