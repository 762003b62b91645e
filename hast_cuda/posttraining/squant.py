"""SQuant (ICLR 2022): rounding whose errors cancel out, without data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hast_cuda.checks.typed import typed
from hast_cuda.nn.quantized_weight import QuantizedWeight
from hast_cuda.ops.reference import arithmetic_dtype, quantizer_parameters


@typed
@torch.no_grad()
def squant(model: nn.Module) -> nn.Module:
    """Round every quantized layer's weights so that their errors sum to almost nothing.

    With the grid of each output channel's minimum and maximum, ``x = S*w - z``, codes ``q =
    round(x)`` and residuals ``r = q - x``: codes with the largest residuals are flipped to the
    other neighbour of x until ``|sum of r| <= 1/2`` in every kernel (stage K), then in every output
    channel, with one candidate per kernel (stage C). 1x1 convolutions and linear layers have stage
    C only. Each weight is put on its grid, which is kept (``weight_range``): quantizing again
    changes nothing.

    Args:
        model: from :func:`hast_cuda.quantize`; edited. Layers whose grid is fixed already keep it.

    Returns:
        ``model`` itself.

    Raises:
        ValueError: no quantized layer, or weights that are not finite.

    Example:
        >>> import hast_cuda as hc
        >>> student = squant(hc.quantize(hc.load_teacher("digits"), 4, 4))
        >>> student.output.weight_range.shape
        torch.Size([2, 10])
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, QuantizedWeight)}
    if not layers:
        raise ValueError("the network has no quantized layer: give what hast_cuda.quantize returns")
    for name, layer in layers.items():
        if not bool(torch.isfinite(layer.weight).all()):
            raise ValueError(f"the weights of {name!r} contain NaN or infinity")
    done: dict[int, Tensor | None] = {}
    for layer in layers.values():
        if id(layer.weight) in done:  # shared with another layer: its grid as well
            layer.weight_range = done[id(layer.weight)]
        elif layer.weight.numel():
            _round(layer)
            done[id(layer.weight)] = layer.weight_range
    return model


def _round(layer: QuantizedWeight) -> None:
    if layer.weight_range is None:
        layer.fix_weight_range()
    assert layer.weight_range is not None
    weight, bits = layer.weight, layer.weight_bits
    dtype = arithmetic_dtype(weight.dtype)
    lower, upper = layer.weight_range.to(dtype).unsqueeze(-1).unbind()
    scale, zero = quantizer_parameters(lower, upper, bits, real_zero_point=layer.zero_point == "real")
    exact = scale * weight.to(dtype).flatten(1) - zero
    kernels = exact.reshape(*weight.shape[:2], -1)
    codes = flipped_codes(kernels, bits).reshape(exact.shape)
    weight.copy_(((codes + zero) / scale).reshape(weight.shape))


def flipped_codes(exact: Tensor, bits: int) -> Tensor:
    """Codes in [-2^(bits-1), 2^(bits-1) - 1] for ``exact = S*w - z``, [out, in, positions]."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    codes = exact.round().clamp(low, high)
    candidates = torch.ones_like(codes, dtype=torch.bool)
    if exact.shape[2] > 1:
        codes, candidates = flip(codes, exact, candidates, low, high)
    codes, _ = flip(codes.flatten(1), exact.flatten(1), candidates.flatten(1), low, high)
    return codes.reshape(exact.shape)


def flip(codes: Tensor, exact: Tensor, candidates: Tensor, low: int, high: int) -> tuple[Tensor, Tensor]:
    """One stage: in every row, move as many codes by one as the residuals' sum has units.

    With ``e = sum of r``, ``k = round(|e|)``: of the candidates whose code can move against e, on
    the other side of their exact value and inside [low, high], the k with the largest ``|r|`` move.
    All are [..., n]. Returns the new codes, and in every row at most one candidate for the next
    stage: the last code that moved if ``k >= |e|`` (it can move back), else the next one that would
    have.
    """
    residuals = codes.double() - exact.double()
    total = residuals.sum(-1, keepdim=True)
    direction = -total.sign()
    moved = codes + direction.to(codes.dtype)
    inside = (moved >= low) & (moved <= high)
    movable = candidates & inside & (residuals * direction < 0)
    size = torch.where(movable, residuals.abs(), -1.0)
    order = size.argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(size.shape[-1], device=size.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(-1, order, places)
    count = total.abs().round()
    following = torch.where(count >= total.abs(), count - 1, count)
    return torch.where(movable & (rank < count), moved, codes), movable & (rank == following)
