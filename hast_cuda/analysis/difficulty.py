"""How hard images are for a network (Eq. 7), and how another one errs by it (Figure 2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_device, check_images, check_range, check_values, explained_forward
from hast_cuda.loops.modes import copied
from hast_cuda.synthesis import difficulty

BINS = 10


@dataclass(frozen=True)
class Judged:
    """What :func:`judge` found, per image."""

    difficulty: Tensor  # 1 - p of the label, float32 [N] in [0, 1]
    wrong: Tensor  # misclassified, bool [N]


@dataclass(frozen=True)
class Histogram:
    """Images per bin [edges[i], edges[i + 1]); the last bin also holds its upper edge."""

    edges: tuple[float, ...]  # of the bins, one more than bins
    counts: tuple[int, ...]  # images per bin

    @property
    def fractions(self) -> tuple[float, ...]:
        """Of all images, adding up to 1 (Figure 2c)."""
        total = sum(self.counts)
        if total <= 0:
            raise ValueError(f"counts is {self.counts}: without images there are no fractions")
        return tuple(count / total for count in self.counts)


@dataclass(frozen=True)
class ErrorRates(Histogram):
    """Error rate in percent of the images of each bin, None where it has none (Figure 2b)."""

    rates: tuple[float | None, ...]  # percent, or None


@typed
@torch.no_grad()
def judge(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, device: torch.device | str = "cpu"
) -> Judged:
    """Difficulty ``d = 1 - p_y`` (Eq. 7) and errors of labelled images under ``network``.

    Args:
        network: float32 [N, C, H, W] -> logits [N, classes]; copied, run in eval mode.
        batches: (images [N, C, H, W] normalised, labels [N] int64).
        device: where to compute.

    Returns:
        Both on the CPU, in the order of the batches.

    Raises:
        ValueError: no images, logits of another shape, labels beyond the classes, or logits that
            are not finite.

    Example:
        >>> import hast_cuda as hc
        >>> teacher, x = hc.load_teacher("digits"), torch.randn(8, 1, 8, 8)
        >>> judge(teacher, [(x, teacher(x).argmax(1))]).wrong.any()
        tensor(False)
    """
    device = as_device(device)
    check_values("network", network)
    model = copied(network).to(device).eval()
    difficulties, wrong, finite = [], [], []
    for images, labels in batches:
        check_images("batches: images", images)
        with explained_forward("batches: images", images):
            logits: Tensor = model(images.to(device))
        _check(logits, labels)
        target = labels.to(device)
        difficulties.append(difficulty(logits, target))
        wrong.append(logits.argmax(1) != target)
        finite.append(logits.isfinite().all())
    if not difficulties:
        raise ValueError("batches is empty: there is no image to judge")
    if not bool(torch.stack(finite).all()):
        raise ValueError(
            f"{type(network).__name__} gives NaN or infinite logits: its weights or ranges are "
            "broken, a difficulty would mean nothing"
        )
    return Judged(torch.cat(difficulties).cpu(), torch.cat(wrong).cpu())


@typed
def difficulty_histogram(difficulties: Tensor, bins: int = BINS) -> Histogram:
    """Counts over ``bins`` equal bins of [0, 1] (GHM's unit regions).

    Args:
        difficulties: [N], each in [0, 1].
        bins: number of bins.

    Raises:
        ValueError: no images, a difficulty outside [0, 1], no bins.

    Example:
        >>> difficulty_histogram(torch.tensor([0.1, 0.2, 0.9]), bins=2).counts
        (2, 1)
    """
    counts = torch.bincount(_bin(difficulties, bins), minlength=bins)
    return Histogram(_edges(bins), tuple(counts.tolist()))


@typed
def error_by_difficulty(difficulties: Tensor, wrong: Tensor, bins: int = BINS) -> ErrorRates:
    """Error rate of one network by difficulty, which is usually measured under another.

    Args:
        difficulties: [N], each in [0, 1], under the full-precision teacher.
        wrong: bool [N], errors of the quantized network on the same images.
        bins: number of bins.

    Raises:
        ValueError: lengths that differ, and as :func:`difficulty_histogram`.

    Example:
        >>> d, wrong = torch.tensor([0.1, 0.2, 0.9]), torch.tensor([True, False, True])
        >>> error_by_difficulty(d, wrong, bins=2).rates
        (50.0, 100.0)
    """
    _has_values("wrong", wrong)
    if wrong.shape != difficulties.shape or wrong.dtype != torch.bool:
        raise ValueError(
            f"wrong is {wrong.dtype} {list(wrong.shape)}; expected torch.bool "
            f"{list(difficulties.shape)}, one per difficulty"
        )
    index = _bin(difficulties, bins)
    counts = torch.bincount(index, minlength=bins).tolist()
    errors = torch.bincount(index[wrong], minlength=bins).tolist()
    rates = tuple(100 * e / n if n else None for e, n in zip(errors, counts, strict=True))
    return ErrorRates(_edges(bins), tuple(counts), rates)


def _edges(bins: int) -> tuple[float, ...]:
    return tuple(i / bins for i in range(bins + 1))


def _bin(difficulties: Tensor, bins: int) -> Tensor:
    """Index of the bin of each difficulty, int64 [N]."""
    check_range("bins", bins, 1, 2**20)
    if difficulties.dim() != 1 or not len(difficulties) or not difficulties.is_floating_point():
        raise ValueError(
            f"difficulties is {list(difficulties.shape)} {difficulties.dtype}; expected [N], floating point, not empty"
        )
    _has_values("difficulties", difficulties)
    if not bool(((difficulties >= 0) & (difficulties <= 1)).all()):  # False for NaN too
        raise ValueError("difficulties must lie in [0, 1]; those of Eq. 7 do")
    return (difficulties.double() * bins).floor().long().clamp(max=bins - 1)


def _has_values(name: str, given: Tensor) -> None:
    if given.is_meta or given.layout != torch.strided:
        raise ValueError(f"{name} has no values to count: it is sparse or on the meta device")


def _check(logits: Tensor, labels: Tensor) -> None:
    if not isinstance(logits, Tensor):
        raise ValueError(f"the network gives a {type(logits).__name__} for batches; expected logits")
    if labels.dim() != 1 or labels.dtype != torch.int64:
        raise ValueError(f"batches: labels are {list(labels.shape)} {labels.dtype}; expected [N] torch.int64")
    _has_values("batches: labels", labels)
    if logits.dim() != 2 or len(logits) != len(labels):
        raise ValueError(
            f"the network gives logits {list(logits.shape)} for {len(labels)} labels; expected [{len(labels)}, classes]"
        )
    lowest, highest = (int(end) for end in labels.aminmax())
    if lowest < 0 or highest >= logits.shape[1]:
        raise ValueError(
            f"labels go from {lowest} to {highest}; the network has {logits.shape[1]} classes: "
            "give the images that it was trained for"
        )
