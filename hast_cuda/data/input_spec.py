"""What images a network expects: size, normalisation, number of classes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hast_cuda.checks.typed import check_fields, typed
from hast_cuda.checks.values import LARGEST_CLASSES, LARGEST_IMAGE
from hast_cuda.loops.warn import warn_caller

Channels = tuple[float, ...]

# name -> (mean, std) per channel, of pixels in [0, 1]
NORMALIZATIONS: dict[str, tuple[Channels, Channels]] = {
    # The constants with which pytorchcv trained its CIFAR and SVHN networks.
    "pytorchcv-cifar": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    # The data sets' own statistics, in the rounding that most training scripts use.
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    # The constants of HAST's released code.
    "cifar10-hast": ((0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768)),
    "cifar100-hast": ((0.50705882, 0.48666667, 0.44078431), (0.26745098, 0.25568627, 0.27607843)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


@dataclass(frozen=True)
class InputSpec:
    """What a network takes, images [N, channels, height, width], and into how many classes, if any.

    Raises:
        ValueError: a size below 1, or mean and std that do not fit the channels.

    Example:
        >>> import hast_cuda as hc
        >>> hc.InputSpec(3, 32, 32, num_classes=10).size
        (3, 32, 32)
    """

    channels: int
    """Of the images; those read from files have 1 (grey) or 3 (RGB), those of an .npz may have 4."""
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    num_classes: int
    """Labels are 0 to this - 1; 0: the network classifies nothing, as detectors and segmenters."""
    mean: Channels = ()
    """Per channel, of pixels in [0, 1]; none: 0."""
    std: Channels = ()
    """Per channel, positive; none: 1."""
    resize: int | None = None
    """Shorter side in pixels before the centre crop; None takes images of exactly height x width
    only."""

    def __post_init__(self) -> None:
        if isinstance(self.num_classes, tuple) and isinstance(self.std, int):
            self._reorder()
        check_fields(self)
        for name, least in (("channels", 1), ("height", 1), ("width", 1), ("num_classes", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")
        if self.num_classes > LARGEST_CLASSES:
            raise ValueError(f"num_classes={self.num_classes} must be at most {LARGEST_CLASSES}")
        if math.prod(self.size) > LARGEST_IMAGE:
            raise ValueError(
                f"height={self.height}: an image of {'x'.join(map(str, self.size))} has more than "
                f"{LARGEST_IMAGE} values"
            )
        object.__setattr__(self, "mean", self.mean or (0.0,) * self.channels)
        object.__setattr__(self, "std", self.std or (1.0,) * self.channels)
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"normalisation has {len(self.mean)} means and {len(self.std)} deviations for "
                f"{self.channels} channels: give one of each per channel"
            )
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ValueError(f"mean={self.mean}, std={self.std}: must be finite, std above 0")
        largest = 64 * max(self.height, self.width)
        if self.resize is not None and not largest // 64 <= self.resize <= largest:
            raise ValueError(
                f"resize={self.resize} must be at least the crop, {self.height}x{self.width}, and "
                "at most 64 times as much"
            )

    def _reorder(self) -> None:
        """Of a call in the order of old: channels, height, width, mean, std, num_classes."""
        warn_caller("InputSpec takes num_classes before mean and std now: give them by name", DeprecationWarning)
        given: Any = {"mean": self.num_classes, "std": self.mean, "num_classes": self.std}
        for name, value in given.items():
            object.__setattr__(self, name, value)

    @property
    def size(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.channels, self.height, self.width

    @property
    def displayable(self) -> tuple[Channels, Channels]:
        """Per channel what black and white are after normalisation: ``(0 - mean) / std``, ``(1 - mean) / std``."""
        low, high = (tuple((v - m) / s for m, s in zip(self.mean, self.std, strict=True)) for v in (0, 1))
        return low, high

    def shape(self) -> dict[str, int]:
        """Sizes and classes by name: all that images made from the network depend on."""
        return {n: getattr(self, n) for n in ("channels", "height", "width", "num_classes")}


@typed
def parse_normalization(normalization: str) -> tuple[Channels, Channels]:
    """(mean, std) from a name in NORMALIZATIONS or from numbers, "0.49,0.48,0.44/0.2,0.2,0.2".

    Raises:
        ValueError: neither a known name nor one mean and one positive deviation per channel.
    """
    if normalization in NORMALIZATIONS:
        return NORMALIZATIONS[normalization]
    try:
        mean, std = (tuple(float(v) for v in part.split(",")) for part in normalization.split("/"))
    except ValueError:
        mean, std = (), ()
    numbers_fit = len(mean) == len(std) > 0 and all(map(math.isfinite, (*mean, *std)))
    if not numbers_fit or min(std) <= 0:
        raise ValueError(
            f"normalization={normalization!r} must be one of {', '.join(NORMALIZATIONS)}, or "
            "mean/std per channel with std above 0, such as 0.49,0.48,0.44/0.2,0.2,0.2"
        )
    return mean, std


_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab
crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse
mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television
tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
_SETS = {"cifar10": _CIFAR10, "cifar100": _CIFAR100, "digits": "0 1 2 3 4 5 6 7 8 9"}


def class_names(model: str, num_classes: int) -> tuple[str, ...]:
    """Names for the logits of a network whose own name ends in that of a data set; else none."""
    names = tuple(name.replace("_", " ") for name in _SETS.get(model.rpartition("_")[2], "").split())
    return names if len(names) == num_classes else ()
