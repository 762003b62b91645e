"""Distillation (Eq. 6): the distance of two networks' softened outputs, with its gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hast_cuda.checks import tensors as _checks
from hast_cuda.ops import _workspace, reference
from hast_cuda.ops._registry import DTYPES, core, device_and_stream, pointer, register
from hast_cuda.ops._scaled import scaled


def _loss(
    teacher: Tensor, student: Tensor, temperature: float, need_teacher: bool, need_student: bool
) -> tuple[Tensor, Tensor, Tensor]:
    teacher, student = teacher.contiguous(), student.contiguous()
    loss, d_teacher, d_student = _outputs(teacher, student, need_teacher, need_student)
    scratch = _workspace.scratch(teacher, teacher.shape[0], torch.float64)
    core.distillation_loss(
        pointer(teacher), pointer(student), pointer(d_teacher) if need_teacher else 0,
        pointer(d_student) if need_student else 0, pointer(loss), pointer(scratch),
        _workspace.counters(teacher, 1), temperature, DTYPES[teacher.dtype], *teacher.shape,
        *device_and_stream(teacher),
    )  # fmt: skip
    return loss, d_teacher, d_student


def _loss_reference(
    teacher: Tensor, student: Tensor, temperature: float, need_teacher: bool, need_student: bool
) -> tuple[Tensor, Tensor, Tensor]:
    wide = reference.arithmetic_dtype(teacher.dtype)
    with torch.enable_grad():
        leaves = [x.detach().to(wide, copy=True).requires_grad_() for x in (teacher, student)]
        loss = reference.distillation_loss(leaves[0], leaves[1], temperature)
        d_teacher, d_student = torch.autograd.grad(loss, leaves)
    empty = loss.new_empty(0)
    return (
        loss.detach(),
        d_teacher if need_teacher else empty,
        d_student if need_student else empty.clone(),
    )


def _outputs(
    teacher: Tensor, student: Tensor, need_teacher: bool, need_student: bool
) -> tuple[Tensor, Tensor, Tensor]:
    loss = teacher.new_empty((), dtype=reference.arithmetic_dtype(teacher.dtype))
    return (
        loss,
        loss.new_empty(teacher.shape if need_teacher else (0,)),
        loss.new_empty(student.shape if need_student else (0,)),
    )


_distillation_loss = register(
    "distillation_loss(Tensor teacher, Tensor student, float temperature, bool need_teacher,"
    " bool need_student) -> (Tensor, Tensor, Tensor)",
    _loss,
    _loss_reference,
    lambda teacher, student, temperature, *needed: _outputs(teacher, student, *needed),
)


class _DistillationLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
        needed = ctx.needs_input_grad[:2]
        loss, d_teacher, d_student = _distillation_loss(teacher, student, temperature, *needed)
        ctx.save_for_backward(d_teacher, d_student)
        ctx.dtype = teacher.dtype
        result: Tensor = loss
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        d_teacher, d_student = ctx.saved_tensors
        need_teacher, need_student, _ = ctx.needs_input_grad
        return (
            scaled(d_teacher, grads[0], ctx.dtype) if need_teacher else None,
            scaled(d_student, grads[0], ctx.dtype) if need_student else None,
            None,
        )


def distillation_loss(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """``KL(softmax(t/T) || softmax(s/T))``, summed over classes, averaged over the batch, 1 launch.

    Args:
        teacher: logits t [N, classes], floating point, not empty.
        student: logits s of the same shape; another dtype is allowed unless one is float64 (both
            are then converted to float32).
        temperature: T > 0, finite.

    Returns:
        0-d float32 (float64 for float64). Gradients (once), computed in the same launch, to whom
        they are needed: ``ds = (q - p) / (T N)``, ``dt_j = p_j (log(p_j/q_j) - KL_n) / (T N)``.

    Raises:
        TypeError: wrong dtype. ValueError: shapes, dtypes or devices that do not fit, T <= 0.
    """
    _checks.logits("teacher", teacher)
    _checks.logits("student", student)
    _checks.same_device("student", student, "teacher", teacher)
    if teacher.shape != student.shape:
        message = f"teacher {tuple(teacher.shape)} and student {tuple(student.shape)} differ"
        raise ValueError(message)
    _checks.positive("temperature", temperature)
    if teacher.dtype != student.dtype:
        if torch.float64 in (teacher.dtype, student.dtype):
            message = f"teacher is {teacher.dtype} and student {student.dtype}; convert one of them"
            raise ValueError(message)
        teacher, student = teacher.float(), student.float()
    loss: Tensor = _DistillationLoss.apply(teacher, student, float(temperature))
    return loss
