"""Which process makes which batch of images, and how all of them get it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hast_cuda.data import Images
from hast_cuda.files.fingerprint import fingerprint
from hast_cuda.files.tensors import DamagedFileError
from hast_cuda.ranks import World
from hast_cuda.synthesis.config import SynthesisConfig
from hast_cuda.synthesis.store import ImageStore

if TYPE_CHECKING:
    from hast_cuda.data import InputSpec

Record = dict[str, float | int | str]


def agree(
    world: World, teacher: nn.Module, shape: InputSpec, config: SynthesisConfig, seed: int
) -> None:
    """ValueError on every rank unless all are to make the same images."""
    if world.size > 1:
        world.agree({
            "seed": seed, "shape": shape, **asdict(config),
            "the network's weights": fingerprint(teacher.state_dict()),
        })  # fmt: skip


def owners(count: int, found: set[int], world: World, *, dependent: bool) -> list[int]:
    """The rank that has, or will make, each of ``count`` batches.

    Those of ``found`` are rank 0's, which reads them; the others go round. Batches that are
    ``dependent`` on the ones before them (IntraQ's margins) are all rank 0's: they can only be made
    one after the other.
    """
    made = iter(range(count))
    return [0 if i in found or dependent else next(made) % world.size for i in range(count)]


def collected(
    own: dict[int, Tensor], labels: Sequence[Tensor], owner: Sequence[int],
    store: ImageStore | None, world: World,
) -> Tensor:  # fmt: skip
    """All images, [N, C, H, W] on the CPU of every rank; waits for the slowest.

    Rank 0 writes the batches of others that it does not find whole in ``store``: the processes of
    another machine may have written them to another disk.
    """
    if world.size == 1:
        return torch.cat([own[index] for index in range(len(owner))])
    results = []
    for index, rank in enumerate(owner):
        images = own.get(index)
        given = None if images is None else {"images": images}
        results.append(world.share(given, rank)["images"])
        theirs = world.first and rank != world.rank
        if store is not None and theirs and not _whole(store, index):
            store.save(index, Images(results[-1], labels[index]))
    return torch.cat(results)


def _whole(store: ImageStore, index: int) -> bool:
    """Whether a batch is there and undamaged."""
    try:
        store.load(index)
    except (FileNotFoundError, DamagedFileError):
        return False
    return True


class Records:
    """Figures of all ranks: those of rank 0 are logged at once, the others' by it at the end."""

    def __init__(self, log: Callable[[Record], None], world: World) -> None:
        self.log, self.world = log, world
        self.kept: list[Record] = []

    def __call__(self, record: Record) -> None:
        """Note one record."""
        if self.world.first:
            self.log(record)
        else:
            self.kept.append(record)

    def finish(self) -> None:
        """Log what the other ranks kept, in the order of the batches."""
        others = [record for kept in self.world.gather(self.kept) for record in kept]
        if self.world.first:
            for record in sorted(others, key=lambda r: int(r["batch"])):
                self.log(record)
