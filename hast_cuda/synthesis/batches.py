"""The batches of a run: which are stored, which process makes which, and how all get them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

import torch
from torch import Tensor, nn

from hast_cuda.data import Images, InputSpec
from hast_cuda.files.tensors import DamagedFileError, fingerprint
from hast_cuda.files.whole import sweep
from hast_cuda.loops.warn import warn_caller
from hast_cuda.ranks import World
from hast_cuda.synthesis.config import SynthesisConfig
from hast_cuda.synthesis.store import ImageStore

Log = Callable[[dict[str, float | int | str]], None]


def agree_on_images(world: World, teacher: nn.Module, shape: InputSpec, config: SynthesisConfig, seed: int) -> None:
    """ValueError on every rank unless all are to make the same images."""
    if world.size > 1:
        weights = fingerprint(teacher.state_dict())
        given = {"seed": seed, "shape": shape, "the network's weights": weights}
        world.agree(given | asdict(config))


def read_stored(store: ImageStore | None, batches: Sequence[Tensor], shape: InputSpec) -> dict[int, Tensor]:
    """Images of whole stored batches, by number; what killed processes left is removed."""
    if store is None:
        return {}
    sweep(store.directory)
    indices = sorted(store.finished() & set(range(len(batches))))
    found = {index: _read(store, index, batches[index], shape) for index in indices}
    return {index: images for index, images in found.items() if images is not None}


def _read(store: ImageStore, index: int, labels: Tensor, shape: InputSpec) -> Tensor | None:
    """Images of a batch made before, None where they are damaged; ValueError: another run's."""
    expected = (len(labels), shape.channels, shape.height, shape.width)
    try:
        batch = store.load(index)
    except DamagedFileError as error:
        warn_caller(f"{error}. It is made again now", RuntimeWarning)
        return None
    if tuple(batch.images.shape) != expected or not torch.equal(batch.labels, labels):
        raise ValueError(
            f"shard {store.path(index)} belongs to another run: its images are "
            f"{list(batch.images.shape)} (here {list(expected)}) or its labels differ; give "
            "another directory, or the options it was made with"
        )
    return batch.images


def assign_batches(count: int, stored: set[int], world: World, *, dependent: bool) -> list[int]:
    """The rank that has, or will make, each of ``count`` batches.

    Those of ``stored`` are rank 0's, which reads them; the others go round, but ``dependent`` ones
    (IntraQ's margins) can only be made one after the other, by rank 0.
    """
    made = iter(range(count))
    return [0 if i in stored or dependent else next(made) % world.size for i in range(count)]


def gather_images(
    own: dict[int, Tensor], labels: Sequence[Tensor], owner: Sequence[int], store: ImageStore | None, world: World
) -> Tensor:
    """All images, [N, C, H, W] on the CPU of every rank; waits for the slowest.

    Rank 0 writes the batches of others that are not in its ``store``: it may be on another disk.
    """
    if world.size == 1:
        return torch.cat([own[index] for index in range(len(owner))])
    results = []
    for index, rank in enumerate(owner):
        images = own.get(index)
        results.append(world.share(images if images is None else {"images": images}, rank)["images"])
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


class GatheredLog:
    """Metrics of all ranks: those of rank 0 are logged at once, the others' by it at the end."""

    def __init__(self, log: Log, world: World) -> None:
        self.log, self.world = log, world
        self.kept: list[dict[str, float | int | str]] = []

    def __call__(self, metrics: dict[str, float | int | str]) -> None:
        """Note those of one iteration."""
        if self.world.first:
            self.log(metrics)
        else:
            self.kept.append(metrics)

    def finish(self) -> None:
        """Log what the other ranks kept, in the order of the batches."""
        others = [metrics for kept in self.world.gather(self.kept) for metrics in kept]
        if self.world.first:
            for metrics in sorted(others, key=lambda m: int(m["batch"])):
                self.log(metrics)
