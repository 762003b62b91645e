"""A student as an ONNX graph in which every quantizer is a marker that carries its layer's name.

torch.onnx translates everything but the quantizers. What becomes of those depends on the target,
so they stay in the graph as nodes of a domain of their own until they are replaced.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hast_cuda.exports.grid import Affine, WeightCodes, activation_grid, weight_codes
from hast_cuda.exports.placement import QuantizedLayer
from hast_cuda.loops.modes import copied
from hast_cuda.networks.outputs import output_tensors
from hast_cuda.networks.swap import swap_modules
from hast_cuda.nn import FakeQuantActivation
from hast_cuda.nn.around import around, in_order
from hast_cuda.ops.activations import activate

if TYPE_CHECKING:
    import onnx_ir as ir

DOMAIN = "hast_cuda.marker"
WEIGHT, QUANTIZE = "Weight", "Quantize"
INPUT, OUTPUT = "images", "logits"
_PACKAGES = ("onnx", "onnxscript", "onnx_ir")


@dataclass(frozen=True)
class MarkedModel:
    """The graph, and what its markers stand for."""

    model: ir.Model
    """Markers ``Weight(w, name=...)`` and ``Quantize(x, name=...)`` pass their input on."""
    weights: dict[str, WeightCodes]
    activations: dict[str, Affine]


def require_onnx() -> None:
    """ImportError, saying what to install, unless networks can be written as ONNX."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"ONNX exports need {', '.join(missing)}: pip install 'hast_cuda[export]' (or pip "
            f"install {' '.join(missing)})"
        )
    if not hasattr(torch.onnx, "ops"):
        raise ImportError(f"ONNX exports need torch 2.8 or newer, this is {torch.__version__}")


def mark(student: nn.Module, shape: tuple[int, int, int], opset: int) -> MarkedModel:
    """Translate ``student``, in eval mode, for images [batch, *shape] with shape (C, H, W).

    ValueError: nothing is quantized, a range that is not frozen, a grid that cannot be stored, or torch.onnx's reason.
    """
    weights: dict[str, WeightCodes] = {}
    activations: dict[str, Affine] = {}

    def convert(name: str, module: nn.Module) -> nn.Module | None:
        if isinstance(module, FakeQuantActivation):
            activations[name] = Affine.of(activation_grid(module, name))
            return _MarkedActivation(module, name)
        if not isinstance(module, QuantizedLayer):
            return None
        weights[name] = weight_codes(module, name)
        layer = module.to_float()
        object.__setattr__(layer, "__class__", _MARKED[type(layer)])
        vars(layer)["marker"] = name
        parts: dict[str, nn.Module] = {}
        for part, quantizer in around(module).items():
            key = f"{name}.{part}"
            activations[key] = Affine.of(activation_grid(quantizer, key))
            parts[part] = _MarkedActivation(quantizer, key)
        return in_order(layer, parts)

    marked = swap_modules(copied(student).cpu().float().eval(), convert)
    if not weights:
        raise ValueError("the network has no quantized layer: give what hast_cuda.quantize returns")
    return MarkedModel(translate(marked, shape, opset), weights, activations)


def translate(network: nn.Module, shape: tuple[int, int, int], opset: int) -> ir.Model:
    """The ONNX graph of a network in eval mode, on the CPU; ValueError with the reason if none."""
    example = torch.zeros(2, *shape)  # of two images: torch.export takes a 1 for a constant
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                opset_version=opset,
                verbose=False,
                input_names=[INPUT],
                output_names=[place.replace(".", "_") or OUTPUT for place in output_tensors(network(example))],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
    except Exception as error:  # whatever the exporter and the network's own code raise
        raise ValueError(f"torch.onnx cannot translate the network: {_reason(error)}") from error
    assert program is not None
    model: ir.Model = program.model
    return model


def _reason(error: BaseException) -> str:
    """The innermost cause in one line; the exporter's own message is general advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep notes about optional packages, and whole graphs where a network is refused, from the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.fx", "torch.export", "torch._dynamo")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _symbol(kind: str, x: Tensor, name: str) -> Tensor:
    marker: Any = torch.onnx.ops.symbolic
    result: Tensor = marker(f"{DOMAIN}::{kind}", (x,), {"name": name}, dtype=x.dtype, shape=x.shape, version=1)
    return result


class _MarkedConv2d(nn.Conv2d):
    marker: str

    def forward(self, input: Tensor) -> Tensor:
        weight = _symbol(WEIGHT, self.weight, self.marker)
        output: Tensor = self._conv_forward(input, weight, self.bias)
        return output


class _MarkedLinear(nn.Linear):
    marker: str

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, _symbol(WEIGHT, self.weight, self.marker), self.bias)


_MARKED: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: _MarkedConv2d, nn.Linear: _MarkedLinear}


class _MarkedActivation(nn.Module):
    def __init__(self, source: FakeQuantActivation, name: str) -> None:
        super().__init__()
        self.activation, self.marker, self.inplace = source.activation, name, source.inplace

    def forward(self, x: Tensor) -> Tensor:
        y = _symbol(QUANTIZE, activate(x, self.activation), self.marker)
        return x.copy_(y) if self.inplace else y
