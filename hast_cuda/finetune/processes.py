"""A student that several processes train: equal in all of them, its gradients summed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import Tensor, nn

from hast_cuda.files.tensors import fingerprint, restore
from hast_cuda.finetune.batches import Batches
from hast_cuda.finetune.checkpoint import Checkpoint, CheckpointFile
from hast_cuda.finetune.config import FinetuneConfig
from hast_cuda.generator.trainer import GeneratorTrainer
from hast_cuda.loops.optimizer_state import load_optimizer_state, optimizer_state
from hast_cuda.ranks import World


def spread_student(student: nn.Module, world: World) -> None:
    """Give every rank the parameters, buffers and ranges of rank 0's student."""
    if world.size > 1:
        restore(student, world.share(student.state_dict()))


def agree_on_steps(world: World, batches: Batches, config: FinetuneConfig, seed: int) -> None:
    """ValueError on every rank unless all are to take the same steps."""
    if world.size > 1:
        given = fingerprint(batches.given)
        world.agree({"seed": seed, **asdict(config), "the images given": given})


def resume(
    checkpoint: CheckpointFile | None,
    student: nn.Module,
    optimizer: torch.optim.Optimizer,
    trainer: GeneratorTrainer | None,
    iterations: int,
    world: World,
) -> Checkpoint:
    """The state to go on from, read by rank 0, in the student and optimizer of every rank.

    The generator stays rank 0's. ValueError: a checkpoint that is corrupt or too long.
    """

    def load() -> Checkpoint:
        if checkpoint is None:
            return Checkpoint(0, [])
        found = checkpoint.load(student, optimizer, trainer)
        if found.iteration > iterations:
            raise ValueError(
                f"checkpoint {checkpoint.path} has {found.iteration} iterations, more than those "
                f"of {iterations} to do; delete it to start fine-tuning again"
            )
        return found

    state = world.on_first(load)
    spread_student(student, world)
    found = world.share(optimizer_state(optimizer))
    if not world.first:
        load_optimizer_state(optimizer, found)
    return state


def check_equal(student: nn.Module, done: int, world: World) -> None:
    """RuntimeError on every rank if their students are not the same bits: unequal processors may
    round the optimizer's step differently, and nothing would show it."""
    if world.size == 1:
        return
    found = world.gather(fingerprint(student.state_dict()))
    other = next((rank for rank, print_ in enumerate(found) if print_ != found[0]), None)
    if other is not None:
        raise RuntimeError(
            f"after iteration {done - 1} rank {other} has another student than rank 0: these "
            "processes round differently; run them on equal processors with the same versions"
        )


class GradientSums:
    """One buffer for all gradients and loss terms of a step: one collective sums them.

    A rank's share of the batch times its own means, summed, are those of the whole. Buckets that
    overlap with the backward pass (DDP) would gain little: no gradient is final before the last
    pass. Everything stays in place, so that what comes before and after can be CUDA graphs.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], terms: int, world: World) -> None:
        kinds = {p.dtype for p in parameters}
        if len(kinds) > 1:
            raise ValueError(
                f"the student's parameters have dtypes {sorted(map(str, kinds))}; several "
                "processes sum those of one dtype: convert the network, or run it in one process"
            )
        self.parameters, self.world = list(parameters), world
        sizes = [p.numel() for p in parameters]
        self.flat = parameters[0].new_zeros(sum(sizes) + terms)
        parts = self.flat.split([*sizes, terms])
        # laid out in memory as the parameters are: the optimizer takes that for granted
        self.gradients = [_like(part, p) for part, p in zip(parts[:-1], parameters, strict=True)]
        self.terms = parts[-1].unbind() if terms else ()

    def put(self, terms: Sequence[Tensor], share: float) -> None:
        """Copy the parameters' gradients, already times ``share``, and ``terms`` times it."""
        # a parameter without influence has no gradient on any rank
        places = zip(self.gradients, self.parameters, strict=True)
        found = [(own, p, p.grad) for own, p in places if p.grad is not None]
        torch._foreach_copy_([own for own, _, _ in found], [grad for _, _, grad in found])
        for own, p, _ in found:
            p.grad = own
        torch._foreach_copy_(list(self.terms), [term * share for term in terms])

    def reduce(self) -> None:
        """Replace all by their sums over the ranks."""
        self.world.sum_(self.flat)


def _like(flat: Tensor, parameter: Tensor) -> Tensor:
    """``flat`` seen in the shape and, where that leaves no gaps, the strides of ``parameter``."""
    if parameter.is_contiguous() or parameter.dim() != 4:
        return flat.view(parameter.shape)
    return flat.view(parameter.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
