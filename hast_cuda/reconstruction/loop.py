"""Block after block, the student's rounding and ranges are fitted to the teacher's maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor, nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import check_images, check_trainable, explained_forward
from hast_cuda.finetune.processes import check_equal, spread_student
from hast_cuda.loops.allocator import freed_memory_kept
from hast_cuda.loops.execution import Execution, convolution_rules
from hast_cuda.loops.memory import explained_memory
from hast_cuda.loops.modes import frozen_copy, with_gradients
from hast_cuda.loops.progress import Progress
from hast_cuda.nn import activation_quantizers
from hast_cuda.nn.quantized_weight import QuantizedWeight
from hast_cuda.ranks import World
from hast_cuda.ranks.world import world_on
from hast_cuda.reconstruction.blocks import Blocks, make_blocks
from hast_cuda.reconstruction.checkpoint import BlockError, ReconstructionFile
from hast_cuda.reconstruction.config import ReconstructionConfig
from hast_cuda.reconstruction.fit import BlockFit, Maps
from hast_cuda.reconstruction.maps import MapStore

Log = Callable[[dict[str, float | int | str]], None]


@typed
@with_gradients
@freed_memory_kept()
def reconstruct(
    teacher: nn.Module,
    student: nn.Module,
    images: Tensor,
    config: ReconstructionConfig,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
    log: Log = lambda _: None,
    checkpoint: ReconstructionFile | None = None,
    execution: Execution | None = None,
    world: World | None = None,
) -> list[BlockError]:
    """Fit rounding and steps of a calibrated student, block by block, to the teacher's maps.

    Every block learns how its weights are rounded (AdaRound, Eq. 21-24), the steps of weights and
    activations (LSQ, Genie-M), from the squared error of its output (BRECQ) while random activations
    stay in full precision (QDrop). Blocks are those of
    :func:`hast_cuda.networks.cut.cut_into_blocks`. A block whose error did not become smaller stays
    as it was. The student ends on its grid: quantizing again changes nothing.

    Args:
        teacher: full-precision network; copied, never edited.
        student: from :func:`hast_cuda.quantize`, calibrated; edited in place.
        images: [N, C, H, W] float32, normalised.
        config: budget and objective.
        seed: of batches and drops; each block has streams of its own.
        device: where to compute; default the world's, which is the CPU for one process.
        log: gets a dict after every block.
        checkpoint: the student after every block, found on the next call.
        execution: how to compute; default :class:`hast_cuda.Execution`.
        world: processes that each take a part of every batch.

    Returns:
        Name, error before and error after of every block with quantized weights.

    Raises:
        ValueError: images that the network does not take, ranges that are not frozen, a checkpoint
            that does not fit. FloatingPointError: a loss that is not finite.

    Example:
        >>> import hast_cuda as hc
        >>> teacher, images = hc.load_teacher("digits"), torch.randn(8, 1, 8, 8)
        >>> student = hc.calibrate(hc.quantize(teacher, 4, 4), [images])
        >>> config = hc.reconstruction.ReconstructionConfig(iterations=2, batch_size=4)
        >>> errors = hc.reconstruction.reconstruct(teacher, student, images, config)
        >>> errors[0].name, errors[0].after <= errors[0].before
        ('stem.0', True)
    """
    world, execution = world_on(world, device), execution or Execution()
    device = world.device
    check_images("images", images)
    check_trainable("student", student)
    _require_ranges(student)
    frozen = execution.network(frozen_copy(teacher, device))
    with torch.no_grad(), explained_forward("images", images):
        frozen(images[:1].to(device))
    originals = _originals(frozen, student)
    trained = {p: p.requires_grad for p in student.parameters()}
    execution.network(student.to(device).eval())
    with torch.no_grad(), explained_forward("images", images):
        student(images[:1].to(device))
    student.requires_grad_(False)
    kept = "Images and finished blocks are kept." if checkpoint is not None else "Nothing was kept (no directory)."
    memory = explained_memory("reconstruction", config.batch_size, "reconstruction.batch_size", kept, device)

    def keep() -> None:
        if checkpoint is not None:
            checkpoint.save(student, done)

    try:
        done = world.on_first(lambda: [] if checkpoint is None else checkpoint.load(student))
        spread_student(student, world)
        with convolution_rules(execution), memory:
            blocks = make_blocks(frozen, student, execution.images(images), device, MapStore(config.map_memory))
            fit = BlockFit(originals, blocks.shared(), config, seed, device, execution, world)
            _each_block(blocks, fit, done, log, keep)
    finally:
        for parameter, flag in trained.items():
            parameter.requires_grad_(flag)
    return done


def _each_block(blocks: Blocks, fit: BlockFit, done: list[BlockError], log: Log, keep: Callable[[], None]) -> None:
    if len(done) == len(blocks.names):  # the maps would be for nothing
        return
    world, count = fit.world, fit.config.iterations
    total, already = len(blocks.names) * count, len(done) * count
    with Progress("reconstruction", total, done=already, quiet=not world.first) as progress:
        for index, name in enumerate(blocks.names):
            exact, given = blocks.inputs(index)
            if index < len(done):
                continue
            teacher, student = blocks.parts(index)
            maps = Maps(exact, given, blocks.maps.through(teacher, exact, fit.device))
            done.append(BlockError(name, *fit(name, student, maps, progress.update)))
            if world.first:
                log({"phase": "reconstruction", "block": index, **asdict(done[-1])})
            check_equal(student, index + 1, world)
            world.on_first(keep)


def _originals(teacher: nn.Module, student: nn.Module) -> dict[QuantizedWeight, Tensor]:
    modules, found = dict(teacher.named_modules()), {}
    for name, layer in student.named_modules():
        if isinstance(layer, QuantizedWeight):
            weight = getattr(modules.get(name), "weight", None)
            if not isinstance(weight, Tensor) or weight.shape != layer.weight.shape:
                raise ValueError(
                    f"teacher has no layer {name!r} with a weight {list(layer.weight.shape)}: give the network that "
                    "the student was made from"
                )
            found[layer] = weight
    return found


def _require_ranges(student: nn.Module) -> None:
    for name, quantizer in activation_quantizers(student).items():
        if quantizer.observing:
            raise ValueError(f"activation range of {name!r} is not frozen: calibrate the student first")
