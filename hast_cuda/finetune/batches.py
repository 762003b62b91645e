"""Where the student's batches come from: stored images, or a generator that trains along."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from hast_cuda.checks.values import check_images, explained_forward
from hast_cuda.finetune.config import FinetuneConfig
from hast_cuda.generator.trainer import GeneratorTrainer
from hast_cuda.loops.crops import CropStream, resize_crops
from hast_cuda.loops.seeding import generator
from hast_cuda.ranks import World


class Batch:
    """The part, ``share``, of a batch that this process has, in tensors that stay in place."""

    def __init__(self, images: Tensor, labels: Tensor | None, share: float = 1.0) -> None:
        self.images, self.labels, self.share = images, labels, share

    def read(self) -> tuple[Tensor, Tensor | None]:
        """Images [n, C, H, W], and labels where they count; captured in the step's CUDA graph."""
        return self.images, self.labels


class StoredBatch(Batch):
    """Some of the stored ``images`` [N, C, H, W], and of their labels, cropped and mirrored.

    With ``mixed`` the first of them are means of two: of the crops ``chosen`` and of the ``others``.
    """

    def __init__(
        self, images: Tensor, size: int, labels: Tensor | None = None, share: float = 1.0, mixed: int = 0
    ) -> None:
        super().__init__(images, labels, share)
        self.chosen = torch.zeros(size, dtype=torch.int64, device=images.device)
        self.crops = torch.zeros(size, 5, device=images.device)
        self.others = torch.zeros(mixed, dtype=torch.int64, device=images.device)
        self.other_crops = torch.zeros(mixed, 5, device=images.device)

    def fill(self, chosen: Tensor, crops: Tensor) -> None:
        """Take the images ``chosen`` [size], cut out of them by ``crops`` [size, 5]."""
        self.chosen.copy_(chosen, non_blocking=True)
        self.crops.copy_(crops)

    def fill_others(self, chosen: Tensor, crops: Tensor) -> None:
        """The same for those that the first are mixed with, ``chosen`` [mixed]."""
        self.others.copy_(chosen, non_blocking=True)
        self.other_crops.copy_(crops)

    def read(self) -> tuple[Tensor, Tensor | None]:
        """The crops of the chosen images, and their labels."""
        images = resize_crops(self.images.index_select(0, self.chosen), self.crops)
        if mixed := len(self.others):
            others = resize_crops(self.images.index_select(0, self.others), self.other_crops)
            images = torch.cat([(images[:mixed] + others) / 2, images[mixed:]])
        return images, None if self.labels is None else self.labels.index_select(0, self.chosen)


class Batches(ABC):
    """One batch per iteration; draws do not depend on the number of processes."""

    trainer: GeneratorTrainer | None = None
    """Of the generator that trains along."""
    shape: tuple[int, int, int]
    """(C, H, W) of an image."""
    given: Mapping[str, Tensor] = MappingProxyType({})
    """What all processes must have in common."""

    @abstractmethod
    def during(self, iterations: range) -> Iterator[tuple[int, Batch]]:
        """(iteration, batch), one after the other; a batch is the next one's, filled anew."""

    @abstractmethod
    def sample(self, count: int) -> tuple[Tensor, Tensor | None]:
        """At most ``count`` images as they are, and their labels where they count."""

    def check_network(self, network: nn.Module) -> None:  # noqa: B027 - a generator fits by itself
        """ValueError unless ``network`` takes the images and has the labels' classes."""

    def check(self) -> None:  # noqa: B027 - stored images cannot fail
        """Read the device; FloatingPointError if the images cannot be trusted any more."""

    def metrics(self) -> dict[str, float]:
        """More to log; reads the device."""
        return {}


class StoredBatches(Batches):
    """Images and labels on the student's device in a new order per pass, each cropped anew."""

    def __init__(self, images: Tensor, labels: Tensor | None, config: FinetuneConfig, seed: int, world: World) -> None:
        self.images, self.labels, self.config = images, labels, config
        self.seed, self.world = seed, world
        self.shape = images.shape[1], images.shape[2], images.shape[3]
        self.given = {"images": images} | ({} if labels is None else {"labels": labels})

    def during(self, iterations: range) -> Iterator[tuple[int, Batch]]:
        """The next images of the pass; its last batch may be smaller."""
        images, config = self.images, self.config
        order = shuffled(len(images), config.batch_size, self.seed, start=iterations.start)
        most, size = min(config.batch_size, len(images)), (images.shape[2], images.shape[3])
        choices = most, size, config.crop_scale, config.flip_probability
        crops = CropStream(*choices, images.device, self.seed, "augment")
        batches: dict[int, StoredBatch] = {}
        for iteration in iterations:
            chosen = next(order)
            count = len(chosen)
            own, share = self.world.part(count)
            cuts = crops.at(iteration)[:count]
            mixed = range(count)[own.start : min(own.stop, round(config.mix * count))]
            if count not in batches:
                batches[count] = StoredBatch(images, len(chosen[own]), self.labels, share, len(mixed))
            batches[count].fill(chosen[own], cuts[own])
            if mixed:
                others = slice(mixed.start, mixed.stop)
                batches[count].fill_others(chosen.roll(1)[others], cuts.roll(1, 0)[others])
            yield iteration, batches[count]

    def sample(self, count: int) -> tuple[Tensor, Tensor | None]:
        """The first images."""
        return self.images[:count], None if self.labels is None else self.labels[:count]

    def check_network(self, network: nn.Module) -> None:
        """One image goes through; labels of the wrong classes are found by reading them."""
        with explained_forward("images", self.images):
            found, labels = network(self.images[:1]), self.labels
        if not isinstance(found, Tensor) or found.dim() != 2:
            raise ValueError("the network gives no logits [N, classes] for images")
        classes = found.shape[1]
        if labels is None:
            return
        if labels.dim() == 2:
            if labels.shape[1] != classes:
                raise ValueError(f"labels has {labels.shape[1]} classes per image; the network has {classes}")
        elif int(labels.min()) < 0 or int(labels.max()) >= classes:
            raise ValueError(
                f"labels go from {int(labels.min())} to {int(labels.max())}; the network has {classes} classes"
            )


class GeneratedBatches(Batches):
    """Images of a generator that takes one training step per batch (GDFQ, Qimera).

    They are not cropped: augmentation makes more of stored images. Of several processes rank 0 has
    the only generator that trains, as its loss matches the statistics of whole batches.
    """

    trainer: GeneratorTrainer

    def __init__(self, trainer: GeneratorTrainer, config: FinetuneConfig, world: World) -> None:
        self.trainer, self.config, self.world = trainer, config, world
        self.shape = trainer.shape

    def during(self, iterations: range) -> Iterator[tuple[int, Batch]]:
        """One step of the generator, then its images."""
        own, share = self.world.part(self.trainer.batch_size)
        images, labels = self.trainer.like_step()
        own_images, own_labels = images[own], labels[own]
        batch = Batch(own_images, own_labels, share)
        for iteration in iterations:
            if self.world.first:
                images, labels = self.trainer.step(self.config.done(iteration))
            else:
                images, labels = self.trainer.like_step()
            self.world.spread_(images)
            self.world.spread_(labels)
            own_images.copy_(images[own])
            own_labels.copy_(labels[own])
            yield iteration, batch

    def sample(self, count: int) -> tuple[Tensor, Tensor | None]:  # noqa: ARG002 - there is none
        """ValueError: a generator's images change with every step."""
        raise ValueError('balance is "start", which needs stored images: set it to "fixed" for those of a generator')

    def check(self) -> None:
        """Read the generator's losses."""
        self.world.on_first(self.trainer.check)

    def metrics(self) -> dict[str, float]:
        """The generator's loss."""
        return {"generator": float(self.trainer.loss)}


def held_out_count(count: int, fraction: float) -> int:
    """How many of ``count`` images :func:`hold_out` takes away."""
    return min(max(round(fraction * count), 1), max(count, 1) - 1) if fraction else 0


def hold_out(images: Tensor, labels: Tensor | None, fraction: float) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Images and labels to train on, and the images held out: the last ones.

    At least one is held out where ``fraction`` is not 0, and at least one is not; of a single image none is.
    """
    count = held_out_count(len(images), fraction)
    if not count:
        return images, labels, None
    rest = len(images) - count
    return images[:rest], None if labels is None else labels[:rest], images[rest:]


def shuffled(count: int, batch_size: int, seed: int, stream: str = "order", start: int = 0) -> Iterator[Tensor]:
    """Endless batches of indices in a new random order per pass, from batch ``start`` on."""
    size = min(batch_size, count)
    number, skip = divmod(start, -(-count // size))
    while True:
        order = torch.randperm(count, generator=generator(seed, stream, number))
        yield from order.split(size)[skip:]
        number, skip = number + 1, 0


def make_batches(
    images: Tensor | GeneratorTrainer,
    labels: Tensor | None,
    config: FinetuneConfig,
    seed: int,
    device: torch.device,
    world: World,
) -> Batches:
    """Batches of what a caller gave; ValueError if it is not what ``config`` needs."""
    if isinstance(images, GeneratorTrainer):
        _check_generator(images, labels, config, device)
        return GeneratedBatches(images, config, world)
    _check_stored(images, labels, config)
    counted = labels.to(device) if config.uses_labels and labels is not None else None
    return StoredBatches(images.to(device), counted, config, seed, world)


def _check_generator(
    trainer: GeneratorTrainer, labels: Tensor | None, config: FinetuneConfig, device: torch.device
) -> None:
    if labels is not None:
        raise ValueError("labels belong to stored images; a generator makes its own: leave them out")
    if trainer.batch_size != config.batch_size or trainer.device.type != device.type:
        raise ValueError(
            f"the generator makes {trainer.batch_size} images at a time on {trainer.device}; "
            f"fine-tuning takes {config.batch_size} (batch_size) on {device}"
        )


def _check_stored(images: Tensor, labels: Tensor | None, config: FinetuneConfig) -> None:
    if not len(images.shape) or not len(images):
        raise ValueError("images is empty: fine-tuning needs at least one image")
    check_images("images", images)
    if images.dim() != 4:
        raise ValueError(f"images is {list(images.shape)}; expected [N, C, H, W], which can be cropped")
    if not config.uses_labels:
        return
    if labels is None:
        needs = f"label_weight is {config.label_weight}" if config.label_weight else 'alignment is "cam"'
        other = "it to 0" if config.label_weight else 'it to "relaxed"'
        raise ValueError(f"{needs}, which needs labels: give those of the images, or set {other}")
    hard = labels.dim() == 1 and labels.dtype == torch.int64
    soft = labels.dim() == 2 and labels.is_floating_point()
    if not (hard or soft) or len(labels) != len(images):
        raise ValueError(
            f"labels is {list(labels.shape)} {labels.dtype}; expected classes [{len(images)}] "
            f"torch.int64 or probabilities [{len(images)}, classes]"
        )
