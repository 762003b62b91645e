"""Per-channel attention vectors (Eq. 14), of one map or of many in one launch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hast_cuda.checks import tensors as _checks
from hast_cuda.ops import _autograd, _layout
from hast_cuda.ops._registry import Launch, core, launch, operator, pointer, pointers
from hast_cuda.ops.arithmetic import arithmetic_dtype
from hast_cuda.ops.codes import Pointer


def channel_attention_reference(feature: Tensor) -> Tensor:
    """Eq. 14: ``sum over space of f^2``, [N, C, ...] -> [N, C]."""
    return feature.to(arithmetic_dtype(feature.dtype)).square().flatten(2).sum(2)


def _gradients_reference(coefficients: list[Tensor], maps: list[Tensor], scale: Tensor | None) -> list[Tensor]:
    outputs = []
    for coefficient, item in zip(coefficients, maps, strict=True):
        factor = 2 * coefficient if scale is None else 2 * coefficient * scale
        shape = (*factor.shape, *[1] * (item.dim() - 2))
        outputs.append((factor.reshape(shape) * item.to(factor.dtype)).to(item.dtype))
    return outputs


class _Maps(Launch):
    maps: list[Pointer]
    batches: list[int]
    channels: list[int]
    spatial: list[int]
    channels_last: list[bool]


def _table(maps: list[Tensor]) -> _Maps:
    return {
        "maps": pointers(maps),
        "batches": [m.shape[0] for m in maps],
        "channels": [m.shape[1] for m in maps],
        "spatial": [m[0, 0].numel() for m in maps],
        "channels_last": [_layout.is_channels_last(m) for m in maps],
        **launch(maps[0]),
    }


def _by_dtype(maps: list[Tensor]) -> list[list[int]]:
    groups: dict[torch.dtype, list[int]] = defaultdict(list)
    for index, item in enumerate(maps):
        if item.numel():
            groups[item.dtype].append(index)
    return list(groups.values())


def _vectors(maps: list[Tensor]) -> list[Tensor]:
    return [m.new_empty(m.shape[:2], dtype=arithmetic_dtype(m.dtype)) for m in maps]


@operator(lambda maps: [channel_attention_reference(m) for m in maps], _vectors)
def _channel_attention(maps: list[Tensor]) -> list[Tensor]:
    maps = [_layout.dense(m) for m in maps]
    outputs = [a if m.numel() else a.zero_() for a, m in zip(_vectors(maps), maps, strict=True)]
    for members in _by_dtype(maps):
        core.channel_attention(energies=pointers([outputs[i] for i in members]), **_table([maps[i] for i in members]))
    return outputs


@operator(_gradients_reference, lambda maps: [torch.empty_like(m) for m in maps])
def _channel_attention_backward(coefficients: list[Tensor], maps: list[Tensor], scale: Tensor | None) -> list[Tensor]:
    maps = [_layout.dense(m) for m in maps]
    coefficients = [c.contiguous() for c in coefficients]
    outputs = [torch.empty_like(m) for m in maps]
    for members in _by_dtype(maps):
        own = [maps[i] for i in members]
        factor = None if scale is None else scale.to(arithmetic_dtype(own[0].dtype))
        core.channel_attention_backward(
            coefficients=pointers([coefficients[i] for i in members]),
            gradients=pointers([outputs[i] for i in members]),
            scale=pointer(factor),
            **_table(own),
        )
    return outputs


attention_vectors, attention_gradients = _channel_attention, _channel_attention_backward


class _ChannelAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *maps: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*maps)
        return tuple(attention_vectors(list(maps)))

    @staticmethod
    @_autograd.once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return tuple(attention_gradients(list(grads), list(ctx.saved_tensors), None))


def check_map(name: str, feature: Tensor) -> None:
    """``feature`` is a map [N, C, ...] with elements."""
    _checks.floating(name, feature)
    if feature.dim() < 3 or feature.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(feature.shape)}; expected [N, C, H, W], not empty")


def channel_attention(feature: Tensor) -> Tensor:
    """Attention vector of Eq. 14: ``a[n, c] = sum over space of f[n, c]^2``.

    Args:
        feature: [N, C, H, W] (or any spatial axes), contiguous or channels_last, floating point.

    Returns:
        [N, C] in float32 (float64 for float64). Gradient: ``df = 2 * da[n, c] * f``.

    Raises:
        TypeError: wrong dtype. ValueError: fewer than three axes or no elements.

    Example:
        >>> import hast_cuda as hc
        >>> f = torch.randn(2, 8, 5, 5)
        >>> torch.allclose(hc.channel_attention(f), f.square().sum((2, 3)))  # equivalent to
        True
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

    Example:
        >>> [a.shape for a in channel_attentions([torch.randn(2, 8, 5, 5), torch.randn(2, 4, 3, 3)])]
        [torch.Size([2, 8]), torch.Size([2, 4])]
    """
    features = _checks.tensors("features", features)
    for index, feature in enumerate(features):
        check_map(f"features[{index}]", feature)
        _checks.same_device(f"features[{index}]", feature, "features[0]", features[0])
    return list(_ChannelAttention.apply(*features)) if features else []
