"""Quantized networks as torch.export programs: no Python code of the network is needed to run."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import LARGEST_IMAGE, check_values
from hast_cuda.exports.float_network import output_path, plain_copy
from hast_cuda.exports.grid import activation_grid
from hast_cuda.exports.placement import QuantizedLayer
from hast_cuda.files.whole import replace_file
from hast_cuda.loops.modes import copied
from hast_cuda.nn import FakeQuantActivation, activation_quantizers
from hast_cuda.nn.around import QuantizedOutput, around, in_order
from hast_cuda.ops.activations import activate
from hast_cuda.ops.reference import arithmetic_dtype, quantizer_parameters

_EXAMPLES = 2  # images to trace with: a batch of 1 would become a constant


@typed
def save_program(
    student: nn.Module, path: Path | str, shape: tuple[int, ...], *, own_ops: bool, batch: int | str = "dynamic"
) -> None:
    """Write ``student`` in eval mode as a program that ``torch.export.load`` reads.

    Its outputs on the CPU are the student's bit by bit, either way.

    Args:
        student: from :func:`hast_cuda.quantize`, its activation ranges frozen.
        path: ends in ".pt2".
        shape: of one image, (C, H, W).
        own_ops: True keeps the weights in floating point and quantizes them in the program, with
            this package's ops: ``import hast_cuda.ops`` before loading. False has dequantized weights
            and quantizes activations with torch's own ops: torch alone can load it.
        batch: "dynamic", or the one number of images that the program takes.

    Raises:
        ValueError: arguments out of what is allowed, ranges that are not frozen, a network that
            torch.export cannot follow. FileNotFoundError: no such directory.

    Example:
        >>> import hast_cuda as hc
        >>> student = hc.quantize(hc.load_teacher("digits"), 4, None)
        >>> save_program(student, "student.pt2", (1, 8, 8), own_ops=False)  # doctest: +SKIP
    """
    path = output_path(path)
    if path.suffix != ".pt2":
        raise ValueError(f"path is {path}: torch.export wants a name that ends in .pt2")
    program = export_program(student, shape, own_ops=own_ops, batch=batch)
    with replace_file(path) as temporary, temporary.open("wb") as file:
        torch.export.save(program, file)


@typed
def export_program(
    student: nn.Module, shape: tuple[int, ...], *, own_ops: bool, batch: int | str = "dynamic"
) -> ExportedProgram:
    """The program that :func:`save_program` writes, on the CPU; raises the same."""
    _check(shape, batch)
    check_values("student", student)
    for name, quantizer in activation_quantizers(student).items():
        activation_grid(quantizer, name)  # refuses ranges that are not frozen
    network = copied(student).cpu().eval() if own_ops else _plain(student).cpu().eval()
    parameter = next((p for p in network.parameters() if p.is_floating_point()), None)
    dtype = torch.get_default_dtype() if parameter is None else parameter.dtype
    count = _EXAMPLES if isinstance(batch, str) else batch
    example = torch.zeros(count, *shape, dtype=dtype)
    free = ({0: Dim("batch")},) if isinstance(batch, str) else None
    try:
        with torch.no_grad():
            program = torch.export.export(network, (example,), dynamic_shapes=free)
    except Exception as error:  # whatever the network's own code raises when traced
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"torch.export cannot follow this {type(student).__name__} "
            f"({type(error).__name__}: {reason}); take control flow that depends on values out of "
            "its forward, and give batch a number if it is bound to one batch size"
        ) from error
    own = sorted(t for n in program.graph.nodes if (t := str(n.target)).startswith("hast_cuda"))
    if own and not own_ops:
        raise ValueError(f"own_ops=False, but the network itself calls {own[0]}: give own_ops=True")
    return program


class PlainQuantizer(nn.Module):
    """Eq. 1-2 of a frozen :class:`hast_cuda.FakeQuantActivation`, bit by bit, without its ops.

    ``(clamp(round(S*x - z), -2^(n-1), 2^(n-1) - 1) + z) / S``; S and z are buffers, so that moving
    the program moves them and no compiler turns the division into a product.
    """

    scale: Tensor
    zero: Tensor

    def __init__(self, source: FakeQuantActivation, dtype: torch.dtype) -> None:
        super().__init__()
        arithmetic = arithmetic_dtype(dtype)
        lower, upper = source.range_state[:2].detach().to(arithmetic).unbind()
        scale, zero = quantizer_parameters(lower, upper, source.bits)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero)
        self.activation, self.arithmetic = source.activation, arithmetic
        self.inplace = source.inplace
        self.low, self.high = -(2 ** (source.bits - 1)), 2 ** (source.bits - 1) - 1

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> same; computed in float32, or float64 for float64."""
        if arithmetic_dtype(x.dtype) != self.arithmetic:  # while tracing: no part of a program
            raise TypeError(f"activations are {x.dtype}, but the network's parameters need {self.arithmetic}")
        y = activate(x.to(self.arithmetic), self.activation)
        codes = torch.round(self.scale * y - self.zero).clamp(self.low, self.high)
        y = ((codes + self.zero) / self.scale).to(x.dtype)
        return x.copy_(y) if self.inplace else y


def _plain(student: nn.Module) -> nn.Module:
    """A copy with dequantized weights, and activation quantizers written in torch's ops."""
    dtypes = [p.dtype for p in student.parameters() if p.is_floating_point()]
    fallback = dtypes[0] if dtypes else torch.get_default_dtype()

    def convert(_: str, module: nn.Module) -> nn.Module | None:
        if isinstance(module, QuantizedLayer):
            dtype = module.weight.dtype
            return in_order(module.to_float(), {n: PlainQuantizer(q, dtype) for n, q in around(module).items()})
        if isinstance(module, QuantizedOutput):
            return nn.Sequential(module.module, PlainQuantizer(module.output_quantizer, fallback))
        if isinstance(module, FakeQuantActivation):
            return PlainQuantizer(module, fallback)
        return None

    return plain_copy(student, convert)


def _check(shape: tuple[int, ...], batch: int | str) -> None:
    sizes = all(type(size) is int and size > 0 for size in shape)
    if not shape or not sizes or math.prod(shape) > LARGEST_IMAGE:
        raise ValueError(f"shape is {shape!r}; expected the size of one image, e.g. (3, 32, 32)")
    most = LARGEST_IMAGE // math.prod(shape)
    if batch != "dynamic" and (type(batch) is not int or not 0 < batch <= most):
        raise ValueError(f'batch is {batch!r}; expected "dynamic" or a number of images')
