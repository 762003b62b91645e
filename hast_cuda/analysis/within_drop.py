"""The smallest weights with which a network keeps the classes of nearly all images."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hast_cuda.analysis.allocation import POINTS, allocate_bits, bit_curve
from hast_cuda.analysis.sensitivity import LayerSensitivity
from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_device, check_images, check_range
from hast_cuda.finetune.agreement import logits, parts
from hast_cuda.loops.modes import frozen_copy
from hast_cuda.nn import Override, calibrate, quantize, shrink_ranges
from hast_cuda.nn.calibrate import SEARCH_IMAGES
from hast_cuda.reconstruction.rounding import search_weight_ranges


@typed
@torch.no_grad()
def allocate_within_drop(
    sensitivity: Mapping[str, LayerSensitivity],
    teacher: nn.Module,
    images: Tensor,
    max_drop: float,
    *,
    act_bits: int | None = 4,
    sum_bits: int = 8,
    placement: str = "auto",
    symmetric_weights: bool = False,
    device: torch.device | str = "cpu",
) -> dict[str, Override]:
    """Bits of every layer: the smallest weights that change the class of at most ``max_drop`` percent.

    The points of :func:`hast_cuda.analysis.bit_curve` are tried by bisection: the network is quantized to each,
    without any training, and its classes are compared with those of full precision, on the images and on enlarged
    parts of them, which are harder. On images of which the network's classes are right no more top-1 can be lost.

    Args:
        sensitivity: from :func:`hast_cuda.sensitivity`.
        teacher: [N, C, H, W] -> logits [N, classes]; copied.
        images: [N, C, H, W], normalised, synthetic or real.
        max_drop: percent, 0 to 100.
        act_bits: as for :func:`hast_cuda.quantize`.
        sum_bits: as for :func:`hast_cuda.quantize`.
        placement: as for :func:`hast_cuda.quantize`.
        symmetric_weights: as for :func:`hast_cuda.quantize`.
        device: where to compute.

    Raises:
        ValueError: the widest weights lose more (the message says how much), or a network without classes.
        ImportError: no scipy.

    Example:
        >>> import hast_cuda as hc
        >>> teacher, images = hc.load_teacher("digits"), torch.randn(16, 1, 8, 8)
        >>> found = hc.sensitivity(teacher, images, bits=(2, 8))
        >>> len(allocate_within_drop(found, teacher, images, 100.0)) == len([x for x in found.values() if x.weights])
        True
    """
    check_images("images", images)
    check_range("max_drop", max_drop, 0, 100)
    where = as_device(device)
    frozen, own = frozen_copy(teacher, where), images.to(where)
    judged = torch.cat([own, parts(own)])
    expected = logits(frozen, judged).argmax(1)
    curve = bit_curve(sensitivity, points=POINTS, cost="size")
    how = {"sum_bits": sum_bits, "placement": placement, "symmetric_weights": symmetric_weights}

    def chosen(index: int) -> dict[str, Override]:
        return allocate_bits(sensitivity, size=curve[index].size, act_bits=act_bits, sum_bits=sum_bits)

    def lost(index: int) -> float:
        """Percent of the images whose class is another one."""
        student = quantize(frozen, 8, act_bits, overrides=chosen(index), **how).eval()  # type: ignore[arg-type]
        search_weight_ranges(student)
        if act_bits is not None:
            shrink_ranges(calibrate(student, own.split(64)), own[:SEARCH_IMAGES])
        return 100 * float((logits(student, judged).argmax(1) != expected).double().mean())

    best = bisect_left(range(len(curve)), True, key=lambda index: lost(index) <= max_drop)
    if best == len(curve):
        raise ValueError(
            f"max_drop is {max_drop:g}; with {max(curve[-1].widths.values())} bits for all weights the class of "
            f"{lost(len(curve) - 1):.2f} % of the images changes: give more, or other bits for activations"
        )
    return chosen(best)
