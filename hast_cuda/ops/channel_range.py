"""Quantization that finds its own range: weights per channel, activations by moving average."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hast_cuda.checks import tensors as _checks
from hast_cuda.checks.values import as_device
from hast_cuda.ops import _layout, _workspace, reference
from hast_cuda.ops._registry import DTYPES, core, device_and_stream, pointer, register
from hast_cuda.ops.activations import ACTIVATION_NAMES, activation_code
from hast_cuda.ops.fake_quant import FakeQuantizeFunction

EMA = ("corrected", "released")


def _weights(
    weights: list[Tensor], bits: list[int], real: bool, ranges: list[Tensor]
) -> list[Tensor]:
    dense = [_layout.dense(w) for w in weights]
    outputs = [torch.empty_like(w) for w in dense]
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = defaultdict(list)
    for index, weight in enumerate(dense):
        if weight.numel():
            groups[weight.device, weight.dtype].append(index)
    for (_, dtype), members in groups.items():
        first = dense[members[0]]
        core.fake_quantize_weights(
            [pointer(dense[i]) for i in members],
            [pointer(outputs[i]) for i in members],
            [pointer(ranges[i]) if ranges and ranges[i].numel() else 0 for i in members],
            [dense[i].shape[0] for i in members],
            [dense[i].numel() // dense[i].shape[0] for i in members],
            [bits[i] for i in members],
            DTYPES[dtype],
            real,
            *device_and_stream(first),
        )
    return outputs


def _weights_reference(
    weights: list[Tensor], bits: list[int], real: bool, ranges: list[Tensor]
) -> list[Tensor]:
    given = [r if r.numel() else None for r in ranges]
    return reference.fake_quantize_weights(weights, bits, real_zero_point=real, ranges=given)


def _update(x: Tensor, state: Tensor, act: int, beta: float, released: bool) -> None:
    x = _layout.dense(x)
    scratch = _workspace.scratch(x, _workspace.range_scratch(x), state.dtype)
    core.update_range(
        pointer(x), pointer(state), pointer(scratch), _workspace.counters(x, 1), DTYPES[x.dtype],
        x.numel(), act, beta, released, *device_and_stream(x),
    )  # fmt: skip


def _update_reference(x: Tensor, state: Tensor, act: int, beta: float, released: bool) -> None:
    reference.update_range(x, state, activation=ACTIVATION_NAMES[act], beta=beta, released=released)


_fake_quantize_weights = register(
    "fake_quantize_weights(Tensor[] weights, int[] bits, bool real_zero_point, Tensor[] ranges)"
    " -> Tensor[]",
    _weights,
    _weights_reference,
    lambda weights, *_: [torch.empty_like(w) for w in weights],
)
_update_range_ = register(
    "update_range_(Tensor x, Tensor(a!) state, int activation, float beta, bool released) -> ()",
    _update,
    _update_reference,
    lambda *_: None,
)


class _FakeQuantizeWeights(torch.autograd.Function):
    """Identity straight-through gradient to every weight; nothing is saved."""

    @staticmethod
    def forward(
        ctx: Any, bits: list[int], real: bool, ranges: list[Tensor], *weights: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)  # a weight that no loss reaches gets None, not zeros
        return tuple(_fake_quantize_weights(list(weights), bits, real, ranges))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None, None, None, *grads)


def fake_quantize_weights(
    weights: Sequence[Tensor], bits: int | Sequence[int], *, zero_point: str = "integer",
    ranges: Sequence[Tensor | None] | None = None,
) -> list[Tensor]:  # fmt: skip
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
    """
    weights = _checks.tensors("weights", weights)
    given: Any = bits
    if not isinstance(given, (int, Sequence)) or isinstance(given, (str, bytes)):
        message = f"bits must be an int from 2 to 8 or a list of them, got {bits!r}"
        raise TypeError(message)
    widths = [bits] * len(weights) if isinstance(bits, int) else list(bits)
    _checks.choice("zero_point", zero_point, _checks.ZERO_POINTS)
    if len(widths) != len(weights):
        message = f"bits has {len(widths)} entries for {len(weights)} weights"
        raise ValueError(message)
    for index, (weight, width) in enumerate(zip(weights, widths, strict=True)):
        _checks.floating(f"weights[{index}]", weight)
        _checks.bit_width(f"bits[{index}]", width)
        if weight.dim() == 0:
            message = f"weights[{index}] is a scalar; expected [out_channels, ...]"
            raise ValueError(message)
    if not weights:
        return []
    grids = [] if ranges is None else _grids(ranges, weights)
    outputs: tuple[Tensor, ...] = _FakeQuantizeWeights.apply(
        widths, zero_point == "real", grids, *weights
    )
    return list(outputs)


def _grids(ranges: Sequence[Tensor | None], weights: list[Tensor]) -> list[Tensor]:
    """Checked, contiguous; an empty tensor stands for None, which a list in an op cannot hold."""
    ranges = _checks.tensors("ranges", ranges)
    if len(ranges) != len(weights):
        message = f"ranges has {len(ranges)} entries for {len(weights)} weights"
        raise ValueError(message)
    grids = []
    for index, (ends, weight) in enumerate(zip(ranges, weights, strict=True)):
        if ends is None:
            grids.append(weight.new_empty(0))
            continue
        name = f"ranges[{index}]"
        _checks.floating(name, ends)
        _checks.same_device(name, ends, f"weights[{index}]", weight)
        if ends.shape != (2, weight.shape[0]):
            message = f"{name} has shape {tuple(ends.shape)}; expected (2, {weight.shape[0]})"
            raise ValueError(message)
        grids.append(ends.detach().to(reference.arithmetic_dtype(weight.dtype)).contiguous())
    _checks.ordered_ranges([grid for grid in grids if grid.numel()])
    return grids


def new_range_state(dtype: torch.dtype = torch.float32, device: Any = None) -> Tensor:
    """Empty range state [lower, upper, m_lower, m_upper, beta^t] = [0, 0, 0, 0, 1].

    Raises:
        TypeError: a dtype other than float32 and float64. ValueError: no such device.
    """
    if dtype not in (torch.float32, torch.float64):
        message = f"dtype is {dtype}; allowed: torch.float32, torch.float64"
        raise TypeError(message)
    device = None if device is None else as_device(device, meta=True)
    return torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0], dtype=dtype, device=device)


def quantize_activation(
    x: Tensor, state: Tensor, bits: int, *, activation: str | None = None, observe: bool = False,
    ema: str = "corrected", beta: float = 0.9, ste: str = "identity", zero_point: str = "integer",
) -> Tensor:  # fmt: skip
    """Activation, range tracking and quantization of one tensor; the range never leaves the device.

    Args:
        x: activations of any shape; float32, float16, bfloat16 or float64.
        state: [5], from :func:`new_range_state`, float32 (float64 for float64 ``x``); updated in
            place when ``observe``: m = beta*m + (1-beta)*(min, max), range = m / (1 - beta^t).
        bits: 2 to 8.
        activation: None, "relu" or "relu6", fused in front.
        observe: update the range before quantizing; otherwise it is frozen and nothing is reduced.
        ema: "corrected", or "released" for the published recursion that feeds corrected values
            back.
        beta: decay of the moving average, in [0, 1).
        ste: "identity" or "clipped", see :func:`fake_quantize`; the activation masks in both.
        zero_point: "integer" or "real".

    Returns:
        Tensor like ``x``. No gradient flows to the range.

    Raises:
        TypeError, ValueError: as :func:`fake_quantize`; wrong state shape, dtype or device.
    """
    _checks.floating("x", x)
    _checks.bit_width("bits", bits)
    _checks.choice("zero_point", zero_point, _checks.ZERO_POINTS)
    _checks.choice("ste", ste, _checks.STE)
    _checks.choice("ema", ema, EMA)
    code = activation_code(activation)
    _checks.range_state(state, x)
    _checks.decay(beta)
    _checks.flag("observe", observe)
    if observe:
        _update_range_(x.detach(), state, code, beta, ema == "released")
    clipped = ste == "clipped"
    # A later update must not change the range that this call's clipped gradient will look at.
    bounds = state.clone() if observe and clipped else state.detach()
    lower, upper, _ = bounds.split_with_sizes((1, 1, 3))
    y: Tensor = FakeQuantizeFunction.apply(
        x, lower, upper, bits, None, zero_point == "real", code, clipped
    )
    return y
