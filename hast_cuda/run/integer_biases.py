"""The student of placement "integer" becomes what its integer files compute: biases that integers hold."""

from __future__ import annotations

from typing import Any

from torch import nn

from hast_cuda.exports import integer_biases
from hast_cuda.loops.warn import warn_caller


def hold_biases(student: nn.Module, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Move the biases of ``student`` in place; by layer how far, in steps of its codes, or why none moved.

    A network that integers alone cannot compute, or a machine without the packages of ONNX, keeps its biases: that
    is said, and only files of integers alone differ.
    """
    try:
        moved, steps = integer_biases(student, shape)
    except (ImportError, ValueError) as error:
        warn_caller(f"biases stay as they were trained, not as integers hold them: {error}", UserWarning)
        return {"moved": {}, "reason": str(error)}
    student.load_state_dict(moved.state_dict())
    return {"moved": steps, "reason": None}
