"""Biases that integers hold, so that a network of codes alone computes what the student computes."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import check_image_size, check_values
from hast_cuda.exports.marked import mark, require_onnx
from hast_cuda.loops.modes import copied

_OPSET = 18


@typed
@torch.no_grad()
def integer_biases(student: nn.Module, shape: tuple[int, int, int]) -> tuple[nn.Module, dict[str, float]]:
    """A copy of ``student`` in which ``save_onnx(form="int8")`` rounds nothing otherwise, and by how much it differs.

    A layer with 4-bit outputs nearly always has integers that give each sum the student's code; one with 8-bit
    outputs has 255 borders between codes, and seldom has them. Where it has none, its bias (or that of the
    BatchNorm behind it) moves to the nearest multiple of its smallest product.

    Args:
        student: calibrated, of placement "integer"; never edited.
        shape: (C, H, W) of normalised images.

    Returns:
        The copy; by layer the largest move of a bias, in steps of the codes that the layer gives.

    Raises:
        ImportError, ValueError: as ``save_onnx(form="int8")``.

    Example:
        >>> import hast_cuda as hc
        >>> student = hc.quantize(hc.load_teacher("digits"), 4, 4, placement="integer")
        >>> student = hc.calibrate(student, [torch.rand(8, 1, 8, 8)])
        >>> moved = integer_biases(student, (1, 8, 8))[1]  # doctest: +SKIP
    """
    check_image_size("shape", shape)
    check_values("student", student)
    require_onnx()
    from hast_cuda.exports.forms import rewrite  # noqa: PLC0415 - optional packages

    moved, sizes = copied(student), {}
    parameters = dict(moved.named_parameters())
    _distinct([parameter for parameter in parameters.values() if parameter.dim() == 1])
    for name, moves in rewrite(mark(moved, shape, _OPSET), "int8").moves.items():
        bias = parameters.get(name)
        if bias is None or len(moves) > 1:  # one that several layers share stays
            continue
        (move,) = moves
        bias.add_(torch.from_numpy(move.by).to(bias))
        sizes[move.layer] = float(np.abs(move.by).max() / move.step)
    return moved, sizes


def _distinct(parameters: list[nn.Parameter]) -> None:
    """Differ in the last bit of a number where they are equal: torch.onnx makes one constant of those.

    (The BatchNorms at the ends of both branches of a residual block have equal biases: their gradients are.)
    """
    seen: set[bytes] = set()
    for parameter in parameters:
        content = _bytes(parameter)
        while content in seen and parameter.numel():
            parameter[0] = torch.nextafter(parameter[0], torch.full_like(parameter[0], torch.inf))
            content = _bytes(parameter)
        seen.add(content)


def _bytes(parameter: nn.Parameter) -> bytes:
    return parameter.detach().cpu().double().numpy().tobytes()
