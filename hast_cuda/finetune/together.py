"""Students that several processes train: equal at the start, and found equal on the way."""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor, nn

from hast_cuda.files.fingerprint import fingerprint
from hast_cuda.finetune.checkpoint import Checkpoint, CheckpointFile
from hast_cuda.finetune.config import FinetuneConfig
from hast_cuda.generator.trainer import GeneratorTrainer
from hast_cuda.loops.optimizer_state import load_optimizer_state, optimizer_state
from hast_cuda.ranks import World


def spread_student(student: nn.Module, world: World) -> None:
    """Give every rank the parameters, buffers and ranges of rank 0's student."""
    if world.size > 1:
        student.load_state_dict(world.share(student.state_dict()))


def agree(
    world: World, images: Tensor | GeneratorTrainer, labels: Tensor | None, config: FinetuneConfig,
    seed: int,
) -> None:  # fmt: skip
    """ValueError on every rank unless all are to take the same steps."""
    if world.size == 1:
        return
    given = {} if labels is None else {"labels": labels}
    if isinstance(images, Tensor):
        given["images"] = images
    world.agree({"seed": seed, **asdict(config), "the images given": fingerprint(given)})


def begin(
    checkpoint: CheckpointFile | None, student: nn.Module, optimizer: torch.optim.Optimizer,
    trainer: GeneratorTrainer | None, iterations: int, world: World,
) -> Checkpoint:  # fmt: skip
    """The state to go on from, read by rank 0, in the student and optimizer of every rank.

    It does not depend on the number of ranks. The generator stays rank 0's.

    Raises:
        ValueError: a checkpoint that is corrupt, or has more than the ``iterations`` to do.
    """

    def load() -> Checkpoint:
        if checkpoint is None:
            return Checkpoint(0, [])
        found = checkpoint.load(student, optimizer, trainer)
        if found.iteration > iterations:
            message = (
                f"checkpoint {checkpoint.path} has {found.iteration} iterations, more than those "
                f"of {iterations} to do; delete it to start fine-tuning again"
            )
            raise ValueError(message)
        return found

    state = world.on_first(load)
    if world.size == 1:
        return state
    spread_student(student, world)
    found = world.share(optimizer_state(optimizer))
    if not world.first:
        load_optimizer_state(optimizer, found)
    return state


def check_equal(student: nn.Module, done: int, world: World) -> None:
    """RuntimeError on every rank if their students are not the same bits.

    Each rank takes the optimizer's step for itself, from the same sums: unequal processors may
    round it differently, and nothing would show it.
    """
    if world.size == 1:
        return
    found = world.gather(fingerprint(student.state_dict()))
    other = next((rank for rank, print_ in enumerate(found) if print_ != found[0]), None)
    if other is not None:
        message = (
            f"after iteration {done - 1} rank {other} has another student than rank 0: these "
            "processes round differently; run them on equal processors with the same versions"
        )
        raise RuntimeError(message)
