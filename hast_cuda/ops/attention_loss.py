"""The feature-alignment loss over all maps (Eq. 13), from maps or from their attention vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hast_cuda.checks import tensors as _checks
from hast_cuda.ops import _autograd, _workspace
from hast_cuda.ops._registry import core, launch, operator, pointer, pointers
from hast_cuda.ops.channel_attention import (
    attention_gradients,
    attention_vectors,
    channel_attention_reference,
    check_map,
)

ENERGY_FLOOR = 1e-12  # as RANGE_FLOOR, for the norm of an all-zero attention vector


def energy_loss_reference(
    teacher: Sequence[Tensor], student: Sequence[Tensor], spatial: Sequence[int], *, normalized: bool = True
) -> Tensor:
    """Eq. 13 between attention vectors [N, C]; ``spatial`` is the number of positions per map.

    ``normalized`` (as released): sum over layers of the mean over samples and channels of the
    squared gap between L2-normalised vectors. Otherwise Eq. 12-14 as printed: the mean over samples
    and layers of the squared L2 distance between the plain vectors.
    """
    terms = []
    for a_t, a_s, positions in zip(teacher, student, spatial, strict=True):
        if normalized:
            floor = ENERGY_FLOOR * positions  # the released code averages over space first
            gap = _directions(a_s, floor) - _directions(a_t, floor)
            terms.append(gap.square().mean())
        else:
            terms.append((a_s - a_t).square().sum(1).mean() / len(teacher))
    return torch.stack(terms).sum()


def _directions(energies: Tensor, floor: float) -> Tensor:
    """``F.normalize``, but for the norm: squares of large energies leave the range of float32."""
    norm = torch.linalg.vector_norm(energies, dim=1, keepdim=True, dtype=torch.float64)
    directions: Tensor = energies / norm.to(energies.dtype).clamp(min=floor)
    return directions


def attention_loss_reference(
    teacher: Sequence[Tensor], student: Sequence[Tensor], *, normalized: bool = True
) -> Tensor:
    """Eq. 13-14 over all pairs of maps [N, C, ...]."""
    energies_t, energies_s = ([channel_attention_reference(f) for f in maps] for maps in (teacher, student))
    spatial = [f[0, 0].numel() for f in teacher]
    return energy_loss_reference(energies_t, energies_s, spatial, normalized=normalized)


def _with_gradients(
    teacher: list[Tensor], student: list[Tensor], spatial: list[int], normalized: bool
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    with torch.enable_grad():
        leaves = [e.detach().requires_grad_() for e in (*teacher, *student)]
        split = len(teacher)
        loss = energy_loss_reference(leaves[:split], leaves[split:], spatial, normalized=normalized)
        grads = list(torch.autograd.grad(loss, leaves))
    return loss.detach(), grads[:split], grads[split:]


def _outputs(teacher: list[Tensor], student: list[Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    d_teacher, d_student = ([torch.empty_like(e) for e in side] for side in (teacher, student))
    return teacher[0].new_empty(()), d_teacher, d_student


@operator(_with_gradients, _outputs)
def _attention_loss(
    teacher: list[Tensor], student: list[Tensor], spatial: list[int], normalized: bool
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    teacher, student = [t.contiguous() for t in teacher], [s.contiguous() for s in student]
    loss, d_teacher, d_student = _outputs(teacher, student)
    first, batch = teacher[0], teacher[0].shape[0]
    scratch = _workspace.scratch(first, len(teacher) * batch, first.dtype)
    core.attention_loss(
        teacher=pointers(teacher),
        student=pointers(student),
        teacher_gradient=pointers(d_teacher),
        student_gradient=pointers(d_student),
        channels=[t.shape[1] for t in teacher],
        spatial=spatial,
        batch=batch,
        loss=pointer(loss),
        scratch=pointer(scratch),
        counters=_workspace.counters(first, 1),
        normalized=normalized,
        **launch(first),
    )
    return loss, d_teacher, d_student


class _AttentionLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, normalized: bool, layers: int, *maps: Tensor) -> Tensor:
        energies = attention_vectors(list(maps))
        spatial = [m[0, 0].numel() for m in maps[:layers]]
        loss, grads_t, grads_s = _attention_loss(energies[:layers], energies[layers:], spatial, normalized)
        ctx.wanted = [i for i in range(2 * layers) if ctx.needs_input_grad[2 + i]]
        gradients = [*grads_t, *grads_s]
        ctx.save_for_backward(*(maps[i] for i in ctx.wanted), *(gradients[i] for i in ctx.wanted))
        ctx.count = 2 * layers
        return loss

    @staticmethod
    @_autograd.once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved, half = ctx.saved_tensors, len(ctx.wanted)
        results: list[Tensor | None] = [None] * ctx.count
        found = attention_gradients(list(saved[half:]), list(saved[:half]), grads[0])
        for index, gradient in zip(ctx.wanted, found, strict=True):
            results[index] = gradient
        return (None, None, *results)


class _EnergyLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, normalized: bool, layers: int, spatial: list[int], *energies: Tensor) -> Tensor:
        loss, grads_t, grads_s = _attention_loss(list(energies[:layers]), list(energies[layers:]), spatial, normalized)
        gradients = [*grads_t, *grads_s]
        ctx.wanted = [i for i in range(2 * layers) if ctx.needs_input_grad[3 + i]]
        ctx.save_for_backward(*(gradients[i] for i in ctx.wanted))
        ctx.count = 2 * layers
        return loss

    @staticmethod
    @_autograd.once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        results: list[Tensor | None] = [None] * ctx.count
        scaled = torch._foreach_mul(list(ctx.saved_tensors), grads[0])  # one launch for all layers
        for index, gradient in zip(ctx.wanted, scaled, strict=True):
            results[index] = gradient
        return (None, None, None, *results)


def attention_energy_loss(
    teacher: Sequence[Tensor], student: Sequence[Tensor], spatial: Sequence[int], *, normalized: bool = True
) -> Tensor:
    """:func:`attention_loss` from attention vectors that are there already.

    Args:
        teacher: vectors [N, C_l] of :func:`channel_attention` or :func:`batch_norm_activation`.
        student: the same of the quantized network.
        spatial: positions of each map (H_l * W_l).
        normalized: as in :func:`attention_loss`.

    Returns:
        0-d loss; gradients flow to both sides that need them.

    Raises:
        TypeError: wrong dtype. ValueError: no vectors, or pairs that differ in shape, dtype or
            device.

    Example:
        >>> maps = [torch.randn(2, 8, 5, 5), torch.randn(2, 8, 5, 5)]
        >>> teacher, student = ([hc.channel_attention(m)] for m in maps)
        >>> torch.equal(attention_energy_loss(teacher, student, [25]), hc.attention_loss(maps[:1], maps[1:]))
        True
    """
    teacher = _checks.tensors("teacher", teacher)
    student = _checks.tensors("student", student)
    spatial = _checks.whole_numbers("spatial", spatial)
    _checks.flag("normalized", normalized)
    if not teacher or not len(teacher) == len(student) == len(spatial):
        counts = len(teacher), len(student), len(spatial)
        raise ValueError(
            f"expected equally many teacher and student vectors and spatial sizes (at least 1), got {counts}"
        )
    first = teacher[0]
    for index, (a_t, a_s) in enumerate(zip(teacher, student, strict=True)):
        _checks.floating(f"teacher[{index}]", a_t)
        _checks.floating(f"student[{index}]", a_s)
        same = a_t.shape == a_s.shape and a_t.dtype == a_s.dtype == first.dtype
        if not same or a_t.dim() != 2 or a_t.shape[0] != first.shape[0] or not a_t.numel():
            raise ValueError(
                f"vector {index}: teacher {tuple(a_t.shape)} {a_t.dtype} and student "
                f"{tuple(a_s.shape)} {a_s.dtype} must both be [N, C], not empty, of one dtype, "
                "with the same N for all vectors"
            )
        if a_t.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"teacher[{index}] has dtype {a_t.dtype}; attention vectors are float32, or float64")
        _checks.same_device(f"teacher[{index}]", a_t, "teacher[0]", first)
        _checks.same_device(f"student[{index}]", a_s, "teacher[0]", first)
    loss: Tensor = _EnergyLoss.apply(normalized, len(teacher), spatial, *teacher, *student)
    return loss


def attention_loss(teacher: Sequence[Tensor], student: Sequence[Tensor], *, normalized: bool = True) -> Tensor:
    """Feature-alignment loss of Eq. 13-14 over all pairs of maps.

    Args:
        teacher: maps [N, C_l, H_l, W_l] of the full-precision network.
        student: maps of the same shapes of the quantized network.
        normalized: True (as released): ``sum_l mean_{n,c} (a_s/||a_s|| - a_t/||a_t||)^2``;
            False (Eq. 12-14 as printed): ``1/(N L) sum_{l,n} ||a_s - a_t||^2``.

    Returns:
        0-d loss without the factor lambda of Eq. 12. Gradients flow to both sides that need them.

    Raises:
        TypeError: wrong dtype. ValueError: no maps, or pairs that differ in shape, dtype or device.

    Example:
        >>> import hast_cuda as hc
        >>> teacher, student = torch.randn(2, 8, 5, 5), torch.randn(2, 8, 5, 5)
        >>> a, b = (torch.nn.functional.normalize(f.square().sum((2, 3))) for f in (teacher, student))
        >>> torch.allclose(hc.attention_loss([teacher], [student]), (a - b).square().mean())
        True
    """
    teacher = _checks.tensors("teacher", teacher)
    student = _checks.tensors("student", student)
    _checks.flag("normalized", normalized)
    if not teacher or len(teacher) != len(student):
        raise ValueError(
            f"expected equally many teacher and student maps (at least 1), got {len(teacher)} and {len(student)}"
        )
    for index, (map_t, map_s) in enumerate(zip(teacher, student, strict=True)):
        check_map(f"teacher[{index}]", map_t)
        check_map(f"student[{index}]", map_s)
        _checks.same_device(f"teacher[{index}]", map_t, "teacher[0]", teacher[0])
        _checks.same_device(f"student[{index}]", map_s, "teacher[0]", teacher[0])
        if map_t.shape != map_s.shape or map_t.shape[0] != teacher[0].shape[0]:
            raise ValueError(
                f"map {index}: teacher {tuple(map_t.shape)} and student {tuple(map_s.shape)} must "
                f"have one shape with batch {teacher[0].shape[0]}"
            )
        if (map_t.dtype == torch.float64) != (map_s.dtype == torch.float64):
            raise ValueError(f"map {index}: teacher is {map_t.dtype} and student {map_s.dtype}")
    loss: Tensor = _AttentionLoss.apply(normalized, len(teacher), *teacher, *student)
    return loss
