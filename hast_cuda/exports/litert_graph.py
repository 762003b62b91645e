"""The engine's plan of a student in integers as a TFLite model, which LiteRT computes in int8.

TFLite has int8 alone, whose operators round and saturate at 127: a code c of n bits becomes
``c + 127 - (2^n - 1)``, so that the largest code is where int8 ends and no operator is needed to
clip there. ReLU, which every operator can have, clips at zero. Biases, weights and scales are those
of the form "int8" (``exports/requantize.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hast_cuda.exports.dequantized import LARGEST_INT8
from hast_cuda.exports.engine_steps import (
    ADD,
    AVERAGE_POOL,
    CONCATENATE,
    CONVERT,
    CONVOLUTION,
    GATHER,
    MAX_POOL,
    MULTIPLY,
    Array,
    Plan,
    Step,
    Value,
    Weights,
    Window,
)
from hast_cuda.exports.grid import Affine
from hast_cuda.exports.requantize import Products, requantized
from hast_cuda.exports.tflite_model import Quantization, TfliteModel

_LOWEST_INT8 = -128


@dataclass
class LitertGraph:
    """The operators of a plan."""

    plan: Plan
    model: TfliteModel = field(default_factory=TfliteModel)
    rounded: dict[str, str] = field(default_factory=dict)
    """Layers whose sums may get another code than in the student, and why."""
    images: int = 0
    logits: int = 0
    _tensors: dict[Value, int] = field(default_factory=dict)

    def write(self) -> None:
        """Every step; ValueError names one that int8 cannot compute."""
        channels, rows, columns = self.plan.images.shape
        self.images = self.model.tensor("images", (1, rows, columns, channels), np.float32)
        self._tensors[self.plan.images] = self.images
        make = {
            CONVOLUTION: self._convolution,
            CONVERT: lambda step: self._made(step, "QUANTIZE", self._read(step)),
            ADD: lambda step: self._made(step, "ADD", self._read(step), fuses=True, potScaleInt16=False),
            MULTIPLY: lambda step: self._made(step, "MUL", self._read(step), fuses=True),
            MAX_POOL: self._max_pool,
            AVERAGE_POOL: self._average_pool,
            CONCATENATE: self._concatenate,
            GATHER: self._gather,
        }
        for step in self.plan.steps:
            if step.activation is not None and step.activation.kind != "clip":
                raise _refusal(step, f"its activation is {step.activation.kind}")
            if step.output is self.plan.output:
                self._classifier(step)
                continue
            images = step.op == CONVERT and step.inputs[0] is self.plan.images
            if step.output.grid is None or not (images or all(value.grid for value in step.reads)):
                raise _refusal(step, 'it reads or gives floats; quantize with placement="integer"')
            make[step.op](step)

    def _read(self, step: Step) -> list[int]:
        return [self._tensors[value] for value in step.inputs]

    def _output(self, step: Step) -> int:
        grid = _grid(step.output)
        self._tensors[step.output] = self.model.tensor(step.output.name, _shape(step.output), np.int8, _int8(grid))
        return self._tensors[step.output]

    def _made(self, step: Step, op: str, inputs: list[int], *, fuses: bool = False, **options: Any) -> None:
        """The step's output by ``op``, which may have a ReLU, clipped to the codes that the activation leaves."""
        grid, name, made = _grid(step.output), step.output.name, self._output(step)
        first, last = _codes(step, grid)
        clips = [("MAXIMUM", first)] if first + _shift(grid) > _LOWEST_INT8 else []
        if fuses:
            options["fusedActivationFunction"] = "RELU" if clips and first == grid.zero_point else "NONE"
            clips = clips if options["fusedActivationFunction"] == "NONE" else []
        if last < grid.largest:
            clips.append(("MINIMUM", last))
        for clip, code in clips:
            unclipped = self.model.like(made, f"{name}.before.{clip.lower()}")
            self.model.operator(op, inputs, unclipped, **options)
            end = np.full((1, 1, 1, 1), code + _shift(grid), np.int8)
            inputs = [unclipped, self.model.constant(f"{name}.{clip.lower()}", end, _int8(grid))]
            op, options = clip, {}
        self.model.operator(op, inputs, made, **options)

    def _convolution(self, step: Step) -> None:
        weights = step.weights
        assert weights is not None
        if step.residual is not None:
            raise _refusal(step, "a sum behind it has no codes of its own")
        if weights.bits is None and not (step.groups == len(weights.values) and (np.abs(weights.values) == 1).all()):
            raise _refusal(step, "its weights are floats")
        self._sums(step, Products(step.name, _integers(weights), weights.scale, weights.bias, ""), step.groups)

    def _sums(self, step: Step, products: Products, groups: int) -> None:
        """``CONV_2D`` or ``DEPTHWISE_CONV_2D``, with an int32 bias."""
        source, target, window = step.inputs[0], _grid(step.output), step.window
        assert window is not None
        found = requantized(products, _grid(source), target, *_codes(step, target), exact=False)
        assert found is not None
        weights = found.weights.astype(np.float64) - found.zero_point.reshape(-1, 1, 1, 1)
        factor = np.maximum(1.0, np.abs(weights).reshape(len(weights), -1).max(1) / LARGEST_INT8)
        reasons = [found.rounding] if found.rounding else []
        if (factor > 1).any():
            reasons.append("weights that do not fit int8 with zero point 0 are rounded once more")
        if reasons:
            self.rounded[step.name] = "; ".join(reasons)
        kernel = np.rint(weights / factor.reshape(-1, 1, 1, 1)).astype(np.int8)
        scale = found.scale * factor
        depthwise = groups > 1 and kernel.shape[1] == 1
        kernel = kernel.transpose(1, 2, 3, 0) if depthwise else kernel.transpose(0, 2, 3, 1)
        none = np.zeros(len(scale))
        bias = np.rint(found.bias / factor).astype(np.int32)
        tensor, padding = self._padded(step)
        inputs = [
            tensor,
            self.model.constant(f"{step.name}.weight", kernel, (scale, none, 3 if depthwise else 0)),
            self.model.constant(f"{step.name}.bias", bias, (scale * _grid(source).step, none, 0)),
        ]
        options: dict[str, Any] = {
            "padding": padding,
            "strideH": window.stride[0],
            "strideW": window.stride[1],
            "dilationHFactor": window.dilation[0],
            "dilationWFactor": window.dilation[1],
        }
        if depthwise:
            options["depthMultiplier"] = len(scale) // groups
        op = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        self._made(step, op, inputs, fuses=True, grouped=groups > 1 and not depthwise, **options)

    def _average_pool(self, step: Step) -> None:
        """``MEAN`` of a whole map; else products with 1: TFLite's own pool has the grid of its input."""
        window, channels = step.window, step.output.shape[0]
        assert window is not None
        if window == Window(step.inputs[0].shape[1:], window.stride):
            axes = self.model.constant(f"{step.name}.axes", np.asarray([1, 2], np.int32))
            self._made(step, "MEAN", [*self._read(step), axes], keepDims=True)
            return
        if any(window.padding) and not step.count_padding:
            raise _refusal(step, "it averages without its padding")
        ones = np.ones((channels, 1, *window.kernel), np.int64)
        factor = np.full(channels, 1 / math.prod(window.kernel))
        self._sums(step, Products(step.name, ones, factor, np.zeros(channels), ""), channels)

    def _gather(self, step: Step) -> None:
        """Products with 0 and 1."""
        chosen = np.zeros((len(step.channels), step.inputs[0].shape[0], 1, 1), np.int64)
        for out, channel in enumerate(step.channels):
            chosen[out, channel] = channel >= 0
        ones = np.ones(len(chosen))
        self._sums(step, Products(step.name, chosen, ones, np.zeros(len(chosen)), ""), 1)

    def _max_pool(self, step: Step) -> None:
        window = step.window
        assert window is not None
        if window.dilation != (1, 1):
            raise _refusal(step, "its window is dilated")
        tensor, padding = self._padded(step, lowest=True)
        (rows, columns), (down, across) = window.kernel, window.stride
        sizes: dict[str, Any] = {"filterHeight": rows, "filterWidth": columns, "strideH": down, "strideW": across}
        self.model.operator("MAX_POOL_2D", [tensor], self._output(step), padding=padding, **sizes)

    def _concatenate(self, step: Step) -> None:
        """TFLite's has one grid."""
        inputs = []
        for value, tensor in zip(step.inputs, self._read(step), strict=True):
            inputs.append(tensor)
            if value.grid != step.output.grid:
                inputs[-1] = self.model.tensor(
                    f"{value.name}.{step.output.name}", _shape(value), np.int8, _int8(_grid(step.output))
                )
                self.model.operator("QUANTIZE", [tensor], inputs[-1])
        self.model.operator("CONCATENATION", inputs, self._output(step), axis=3)

    def _padded(self, step: Step, *, lowest: bool = False) -> tuple[int, str]:
        """The step's input and the name of its padding: an operator's, where TFLite's own rule is another.

        ``lowest``: with the lowest code (of maxima); otherwise with zeros.
        """
        source, window = step.inputs[0], step.window
        assert window is not None
        tensor, (top, left, bottom, right) = self._tensors[source], window.padding
        if not any(window.padding):
            return tensor, "VALID"
        if _is_same(window, source.shape[1:], step.output.shape[1:]):
            return tensor, "SAME"
        channels, rows, columns = source.shape
        made = self.model.like(
            tensor, f"{step.name}.padded", (1, rows + top + bottom, columns + left + right, channels)
        )
        sizes = np.asarray([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        inputs = [tensor, self.model.constant(f"{step.name}.padding", sizes)]
        grid = _grid(source)
        if lowest and grid.zero_point != 0:
            inputs.append(self.model.constant(f"{step.name}.lowest", np.asarray([_shift(grid)], np.int8), _int8(grid)))
        self.model.operator("PADV2" if len(inputs) > 2 else "PAD", inputs, made)
        return made, "VALID"

    def _classifier(self, step: Step) -> None:
        """In float, on codes of the features."""
        weights, source = step.weights, step.inputs[0]
        if step.op != CONVOLUTION or weights is None or step.output.grid is not None or step.activation is not None:
            raise _refusal(step, "the logits are not those of a linear layer")
        plain = step.residual is None and step.groups == 1 and not any(step.window.padding if step.window else ())
        if source.grid is None or step.output.shape[1:] != (1, 1) or not plain:
            raise _refusal(step, "the logits are not those of a linear layer of codes")
        features = self.model.tensor(f"{source.name}.float", _shape(source), np.float32)
        self.model.operator("DEQUANTIZE", [self._tensors[source]], features)
        matrix = _integers(weights) * weights.scale.reshape(-1, 1, 1, 1)
        rows = matrix.transpose(0, 2, 3, 1).reshape(len(matrix), -1).astype(np.float32)
        inputs = [
            features,
            self.model.constant(f"{step.name}.weight", rows),
            self.model.constant(f"{step.name}.bias", weights.bias.astype(np.float32)),
        ]
        self.logits = self.model.tensor("logits", (1, len(rows)), np.float32)
        self.model.operator("FULLY_CONNECTED", inputs, self.logits)


def _refusal(step: Step, why: str) -> ValueError:
    return ValueError(f"a TFLite file in int8 cannot hold {step.op} {step.name!r}: {why}")


def _grid(value: Value) -> Affine:
    assert value.grid is not None  # looked at in write()
    return value.grid


def _shape(value: Value) -> tuple[int, int, int, int]:
    channels, rows, columns = value.shape
    return 1, rows, columns, channels


def _shift(grid: Affine) -> int:
    """From codes to int8."""
    return LARGEST_INT8 - grid.largest


def _int8(grid: Affine) -> Quantization:
    return np.asarray([grid.step]), np.asarray([grid.zero_point + _shift(grid)]), 0


def _codes(step: Step, grid: Affine) -> tuple[int, int]:
    """The first and last that the activation leaves."""
    if step.activation is None:
        return 0, grid.largest
    low, high = step.activation.a, step.activation.b
    return grid.code(-math.inf if low is None else low), grid.code(math.inf if high is None else high)


def _integers(weights: Weights) -> Array:
    """int64 with zero point 0; floats of 1 and -1 as they are."""
    values: Array = weights.values.astype(np.int64)
    return values if weights.zero_point is None else values - weights.zero_point.reshape(-1, 1, 1, 1)


def _is_same(window: Window, given: tuple[int, ...], made: tuple[int, ...]) -> bool:
    """TFLite's padding "SAME" reaches as far: half of what is missing, rounded down, comes before."""
    sizes = zip(window.kernel, window.stride, window.dilation, window.padding, given, made, strict=False)
    return all(
        out == -(-size // stride) and before == max((out - 1) * stride + dilation * (kernel - 1) + 1 - size, 0) // 2
        for kernel, stride, dilation, before, size, out in sizes
    )
