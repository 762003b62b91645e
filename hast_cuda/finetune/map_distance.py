"""Direct alignment (Table 7) as a sum of distances that the networks measured on the way."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _MapDistance(torch.autograd.Function):
    """A handful of launches for any number of layers, none of them larger than the distances."""

    @staticmethod
    def forward(ctx: Any, shares: list[float], *distances: Tensor) -> Tensor:
        ctx.shares, ctx.shapes = shares, [d.shape for d in distances]
        parts = torch._foreach_mul(list(distances), shares)
        return torch.cat([part.flatten() for part in parts]).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        sizes = [shape.numel() for shape in ctx.shapes]
        same = grads[0].expand(sum(sizes)).contiguous().split_with_sizes(sizes)
        parts = torch._foreach_mul(
            [part.view(shape) for part, shape in zip(same, ctx.shapes, strict=True)], ctx.shares
        )
        return None, *parts


def map_distance(distances: list[Tensor], positions: list[int]) -> Tensor:
    """``sum_l mean (f_s - f_t)^2`` over N, C, H, W (Table 7), without the factor lambda of Eq. 12.

    Args:
        distances: per layer [N, C_l], ``sum over space of (f_s - f_t)^2``; float32 or float64, one
            dtype. At least one.
        positions: of each layer's map (H_l * W_l).

    Returns:
        0-d loss; the gradient of a distance is one over the number of elements of its map.
    """
    shares = [
        1.0 / (distance.numel() * count)
        for distance, count in zip(distances, positions, strict=True)
    ]
    loss: Tensor = _MapDistance.apply(shares, *distances)
    return loss


def direct_alignment(teacher: list[Tensor], student: list[Tensor]) -> Tensor:
    """:func:`map_distance` from maps of equal shapes, in ops that can be differentiated twice.

    0-d, float32, or float64 for float64 maps. Gradients flow to both sides.
    """
    errors = [F.mse_loss(_wide(f_s), _wide(f_t)) for f_t, f_s in zip(teacher, student, strict=True)]
    return torch.stack(errors).sum()


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
