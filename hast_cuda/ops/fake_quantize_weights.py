"""All weights of a network quantized in one launch, each on its own range or a given one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hast_cuda.checks import tensors as _checks
from hast_cuda.ops import _layout
from hast_cuda.ops._registry import core, launch, operator, pointers
from hast_cuda.ops.arithmetic import arithmetic_dtype
from hast_cuda.ops.codes import Pointer
from hast_cuda.ops.fake_quantize import fake_quantize_reference


def fake_quantize_weights_reference(
    weights: Sequence[Tensor],
    bits: Sequence[int],
    *,
    real_zero_point: bool = False,
    ranges: Sequence[Tensor | None] | None = None,
) -> list[Tensor]:
    """Every weight on its range [2, out], or on its minimum and maximum per channel (None)."""
    outputs = []
    for weight, width, ends in zip(weights, bits, ranges or [None] * len(weights), strict=True):
        if weight.numel() == 0:
            outputs.append(torch.empty_like(weight))
            continue
        rows = weight.to(arithmetic_dtype(weight.dtype)).reshape(weight.shape[0], -1)
        lower, upper = rows.aminmax(dim=1) if ends is None or not ends.numel() else ends
        outputs.append(fake_quantize_reference(weight, lower, upper, width, 0, real_zero_point=real_zero_point))
    return outputs


@operator(fake_quantize_weights_reference, lambda weights: [torch.empty_like(w) for w in weights])
def _fake_quantize_weights(
    weights: list[Tensor], bits: list[int], real_zero_point: bool, ranges: list[Tensor]
) -> list[Tensor]:
    dense = [_layout.dense(w) for w in weights]
    outputs = [torch.empty_like(w) for w in dense]
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = defaultdict(list)
    for index, weight in enumerate(dense):
        if weight.numel():
            groups[weight.device, weight.dtype].append(index)
    for members in groups.values():
        own = [dense[i] for i in members]
        core.fake_quantize_weights(
            weights=pointers(own),
            outputs=pointers([outputs[i] for i in members]),
            ranges=pointers([ranges[i] for i in members]) if ranges else [Pointer(0)] * len(own),
            rows=[w.shape[0] for w in own],
            columns=[w.numel() // w.shape[0] for w in own],
            bits=[bits[i] for i in members],
            real_zero_point=real_zero_point,
            **launch(own[0]),
        )
    return outputs


class _FakeQuantizeWeights(torch.autograd.Function):
    """Identity straight-through gradient to every weight; nothing is saved."""

    @staticmethod
    def forward(ctx: Any, bits: list[int], real: bool, ranges: list[Tensor], *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)  # a weight that no loss reaches gets None, not zeros
        return tuple(_fake_quantize_weights(list(weights), bits, real, ranges))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None, None, None, *grads)


def fake_quantize_weights(
    weights: Sequence[Tensor],
    bits: int | Sequence[int],
    *,
    zero_point: str = "integer",
    ranges: Sequence[Tensor | None] | None = None,
) -> list[Tensor]:
    """Fake-quantize all weights of a network in one launch, range = min and max per output channel.

    Args:
        weights: tensors [out, ...], any mix of shapes; float32, float16, bfloat16 or float64.
        bits: 2 to 8, one for all or one per weight.
        zero_point: "integer" or "real", see :func:`fake_quantize`.
        ranges: grids that stay, [2, out] per weight (lower and upper ends); None for those that
            follow their minimum and maximum. Values of CUDA ranges are not checked.

    Returns:
        One tensor per weight, same shape and dtype (Eq. 1-2). The gradient passes unchanged.

    Raises:
        TypeError: wrong dtype. ValueError: bits out of range, lengths that differ, a 0-d weight; a
            range of another shape or device, not finite, or with lower > upper.

    Example:
        >>> import hast_cuda as hc
        >>> weight = torch.randn(8, 3, 3, 3)  # equivalent to one range per output channel:
        >>> low, high = weight.flatten(1).aminmax(dim=1)
        >>> (one,) = hc.fake_quantize_weights([weight], 4)
        >>> torch.equal(one, hc.fake_quantize(weight, low, high, 4, 0))
        True
    """
    weights = _checks.tensors("weights", weights)
    widths = _checks.bit_widths(bits, "weights", len(weights))
    _checks.choice("zero_point", zero_point, _checks.ZERO_POINTS)
    for index, weight in enumerate(weights):
        _checks.floating(f"weights[{index}]", weight)
        if weight.dim() == 0:
            raise ValueError(f"weights[{index}] is a scalar; expected [out_channels, ...]")
    if not weights:
        return []
    grids = [] if ranges is None else _grids(ranges, weights)
    outputs: tuple[Tensor, ...] = _FakeQuantizeWeights.apply(widths, zero_point == "real", grids, *weights)
    return list(outputs)


def _grids(ranges: Sequence[Tensor | None], weights: list[Tensor]) -> list[Tensor]:
    """Checked, contiguous; an empty tensor stands for None, which a list in an op cannot hold."""
    ranges = _checks.tensors("ranges", ranges)
    if len(ranges) != len(weights):
        raise ValueError(f"ranges has {len(ranges)} entries for {len(weights)} weights")
    grids = []
    for index, (ends, weight) in enumerate(zip(ranges, weights, strict=True)):
        if ends is None:
            grids.append(weight.new_empty(0))
            continue
        name = f"ranges[{index}]"
        _checks.floating(name, ends)
        _checks.same_device(name, ends, f"weights[{index}]", weight)
        if ends.shape != (2, weight.shape[0]):
            raise ValueError(f"{name} has shape {tuple(ends.shape)}; expected (2, {weight.shape[0]})")
        grids.append(ends.detach().to(arithmetic_dtype(weight.dtype)).contiguous())
    _checks.ordered_ranges([grid for grid in grids if grid.numel()])
    return grids
