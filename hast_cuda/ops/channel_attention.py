"""Per-channel attention vectors (Eq. 14), of one map or of many in one launch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hast_cuda.checks import tensors as _checks
from hast_cuda.ops import _layout, reference
from hast_cuda.ops._registry import DTYPES, core, device_and_stream, pointer, register


def _tables(maps: list[Tensor], members: list[int]) -> tuple[list[int], ...]:
    chosen = [maps[i] for i in members]
    return (
        [m.shape[0] for m in chosen],
        [m.shape[1] for m in chosen],
        [m[0, 0].numel() for m in chosen],
        [int(_layout.is_channels_last(m)) for m in chosen],
    )


def _by_dtype(maps: list[Tensor]) -> list[tuple[torch.dtype, list[int]]]:
    groups: dict[torch.dtype, list[int]] = defaultdict(list)
    for index, item in enumerate(maps):
        if item.numel():
            groups[item.dtype].append(index)
    return list(groups.items())


def _energies(maps: list[Tensor]) -> list[Tensor]:
    maps = [_layout.dense(m) for m in maps]
    outputs = [
        m.new_zeros(m.shape[:2], dtype=reference.arithmetic_dtype(m.dtype))
        if m.numel() == 0
        else m.new_empty(m.shape[:2], dtype=reference.arithmetic_dtype(m.dtype))
        for m in maps
    ]
    for dtype, members in _by_dtype(maps):
        core.channel_attention(
            [pointer(maps[i]) for i in members], [pointer(outputs[i]) for i in members],
            *_tables(maps, members), DTYPES[dtype], *device_and_stream(maps[members[0]]),
        )  # fmt: skip
    return outputs


def _energies_reference(maps: list[Tensor]) -> list[Tensor]:
    return [reference.channel_attention(m) for m in maps]


def _energies_backward(
    coefficients: list[Tensor], maps: list[Tensor], scale: Tensor | None
) -> list[Tensor]:
    maps = [_layout.dense(m) for m in maps]
    coefficients = [c.contiguous() for c in coefficients]
    outputs = [torch.empty_like(m) for m in maps]
    for dtype, members in _by_dtype(maps):
        wide = reference.arithmetic_dtype(dtype)
        factor = None if scale is None else scale.to(wide)
        core.channel_attention_backward(
            [pointer(maps[i]) for i in members], [pointer(coefficients[i]) for i in members],
            [pointer(outputs[i]) for i in members], *_tables(maps, members), pointer(factor),
            DTYPES[dtype], *device_and_stream(maps[members[0]]),
        )  # fmt: skip
    return outputs


def _energies_backward_reference(
    coefficients: list[Tensor], maps: list[Tensor], scale: Tensor | None
) -> list[Tensor]:
    outputs = []
    for coefficient, item in zip(coefficients, maps, strict=True):
        factor = 2 * coefficient if scale is None else 2 * coefficient * scale
        shape = (*factor.shape, *[1] * (item.dim() - 2))
        outputs.append((factor.reshape(shape) * item.to(factor.dtype)).to(item.dtype))
    return outputs


def _fake_energies(maps: list[Tensor]) -> list[Tensor]:
    return [m.new_empty(m.shape[:2], dtype=reference.arithmetic_dtype(m.dtype)) for m in maps]


attention_vectors = register(
    "channel_attention(Tensor[] maps) -> Tensor[]", _energies, _energies_reference, _fake_energies
)
attention_gradients = register(
    "channel_attention_backward(Tensor[] coefficients, Tensor[] maps, Tensor? scale) -> Tensor[]",
    _energies_backward,
    _energies_backward_reference,
    lambda coefficients, maps, scale: [torch.empty_like(m) for m in maps],
)


class _ChannelAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *maps: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*maps)
        return tuple(attention_vectors(list(maps)))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return tuple(attention_gradients(list(grads), list(ctx.saved_tensors), None))


def check_map(name: str, feature: Tensor) -> None:
    """``feature`` is a map [N, C, ...] with elements."""
    _checks.floating(name, feature)
    if feature.dim() < 3 or feature.numel() == 0:
        message = f"{name} has shape {tuple(feature.shape)}; expected [N, C, H, W], not empty"
        raise ValueError(message)


def channel_attention(feature: Tensor) -> Tensor:
    """Attention vector of Eq. 14: ``a[n, c] = sum over space of f[n, c]^2``.

    Args:
        feature: [N, C, H, W] (or any spatial axes), contiguous or channels_last, floating point.

    Returns:
        [N, C] in float32 (float64 for float64). Gradient: ``df = 2 * da[n, c] * f``.

    Raises:
        TypeError: wrong dtype. ValueError: fewer than three axes or no elements.
    """
    check_map("feature", feature)
    (energy,) = _ChannelAttention.apply(feature)
    result: Tensor = energy
    return result


def channel_attentions(features: Sequence[Tensor]) -> list[Tensor]:
    """:func:`channel_attention` of several maps in one launch.

    Raises:
        TypeError: no list, wrong dtype. ValueError: as :func:`channel_attention`; maps on different
            devices.
    """
    features = _checks.tensors("features", features)
    for index, feature in enumerate(features):
        check_map(f"features[{index}]", feature)
        _checks.same_device(f"features[{index}]", feature, "features[0]", features[0])
    return list(_ChannelAttention.apply(*features)) if features else []
