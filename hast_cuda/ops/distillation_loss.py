"""Distillation (Eq. 6): the distance of two networks' softened outputs, with its gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hast_cuda.checks import tensors as _checks
from hast_cuda.ops import _autograd, _workspace
from hast_cuda.ops._autograd import scaled
from hast_cuda.ops._registry import core, launch, operator, pointer
from hast_cuda.ops.arithmetic import arithmetic_dtype


def distillation_loss_reference(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Eq. 6: ``KL(softmax(t/T) || softmax(s/T))``, summed over classes, averaged over the batch."""
    log_p, log_q = (F.log_softmax(x.to(arithmetic_dtype(x.dtype)) / temperature, dim=1) for x in (teacher, student))
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def _with_gradients(
    teacher: Tensor, student: Tensor, temperature: float, need_teacher: bool, need_student: bool
) -> tuple[Tensor, Tensor, Tensor]:
    wide = arithmetic_dtype(teacher.dtype)
    with torch.enable_grad():
        leaves = [x.detach().to(wide, copy=True).requires_grad_() for x in (teacher, student)]
        loss = distillation_loss_reference(leaves[0], leaves[1], temperature)
        d_teacher, d_student = torch.autograd.grad(loss, leaves)
    empty = loss.new_empty(0)
    return (loss.detach(), d_teacher if need_teacher else empty, d_student if need_student else empty.clone())


def _outputs(teacher: Tensor, student: Tensor, need_teacher: bool, need_student: bool) -> tuple[Tensor, Tensor, Tensor]:
    loss = teacher.new_empty((), dtype=arithmetic_dtype(teacher.dtype))
    return (
        loss,
        loss.new_empty(teacher.shape if need_teacher else (0,)),
        loss.new_empty(student.shape if need_student else (0,)),
    )


@operator(_with_gradients, _outputs)
def _distillation_loss(
    teacher: Tensor, student: Tensor, temperature: float, need_teacher: bool, need_student: bool
) -> tuple[Tensor, Tensor, Tensor]:
    teacher, student = teacher.contiguous(), student.contiguous()
    loss, d_teacher, d_student = _outputs(teacher, student, need_teacher, need_student)
    rows, classes = teacher.shape
    scratch = _workspace.scratch(teacher, rows, torch.float64)
    core.distillation_loss(
        teacher=pointer(teacher),
        student=pointer(student),
        teacher_gradient=pointer(d_teacher),
        student_gradient=pointer(d_student),
        loss=pointer(loss),
        scratch=pointer(scratch),
        counters=_workspace.counters(teacher, 1),
        temperature=temperature,
        rows=rows,
        classes=classes,
        **launch(teacher),
    )
    return loss, d_teacher, d_student


class _DistillationLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
        needed = ctx.needs_input_grad[:2]
        loss, d_teacher, d_student = _distillation_loss(teacher, student, temperature, *needed)
        ctx.save_for_backward(d_teacher, d_student)
        ctx.dtype = teacher.dtype
        return loss

    @staticmethod
    @_autograd.once
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

    Example:
        >>> import hast_cuda as hc
        >>> teacher, student = torch.randn(4, 10), torch.randn(4, 10)
        >>> p, q = ((x / 20).log_softmax(1) for x in (teacher, student))  # equivalent to
        >>> expected = torch.nn.functional.kl_div(q, p, reduction="batchmean", log_target=True)
        >>> torch.allclose(hc.distillation_loss(teacher, student, 20.0), expected, atol=1e-6)
        True
    """
    _checks.logits("teacher", teacher)
    _checks.logits("student", student)
    _checks.same_device("student", student, "teacher", teacher)
    if teacher.shape != student.shape:
        raise ValueError(f"teacher {tuple(teacher.shape)} and student {tuple(student.shape)} differ")
    _checks.positive("temperature", temperature)
    if teacher.dtype != student.dtype:
        if torch.float64 in (teacher.dtype, student.dtype):
            raise ValueError(f"teacher is {teacher.dtype} and student {student.dtype}; convert one of them")
        teacher, student = teacher.float(), student.float()
    loss: Tensor = _DistillationLoss.apply(teacher, student, float(temperature))
    return loss
