"""Integers alone between the quantizer of the images and the classifier, for onnxruntime.

Every quantizer asks what computes its input, and has that give codes: a convolution becomes one
``QLinearConv``, a sum or product of codes ``QLinearAdd`` or ``QLinearMul``, a mean its ``QLinear``
pool. Poolings of maxima, joined channels and reshaped values move behind the quantizer.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from hast_cuda.exports.codes import CodeGraph, Found, keeps_codes
from hast_cuda.exports.dequantized import rectifier
from hast_cuda.exports.editing import Array, attribute, attributes_of, constant_of
from hast_cuda.exports.folded import Layer, batch_norm, is_marker, shift_name
from hast_cuda.exports.grid import Affine
from hast_cuda.exports.marked import QUANTIZE
from hast_cuda.exports.requantize import Products, requantized

_CONTRIB = "com.microsoft"
_NOT_READ, _NOT_WRITTEN = "its input is not quantized", "its output is not quantized"


@dataclass(frozen=True)
class _Wanted:
    """Codes of a grid, of which ReLU and ReLU6 leave [first, last], for a marker."""

    marker: ir.Node
    name: str
    grid: Affine
    first: int
    last: int

    def within(self, ends: tuple[float, float]) -> _Wanted:
        """Those of numbers clamped to ``ends`` before they are quantized."""
        first, last = map(self.grid.code, ends)
        return replace(self, first=max(self.first, first), last=min(self.last, last))


@dataclass(frozen=True)
class Move:
    """From a layer's bias to the nearest that its integers can hold."""

    layer: str
    by: Array  # float64 [out]
    step: float  # of the codes that the layer gives


@dataclass
class Int8Rewriter(CodeGraph):
    """Replaces markers and quantized layers by operators on codes."""

    rounded: dict[str, str] = field(default_factory=dict)
    """Layers whose sums may get another code than in the student, and why."""
    moves: dict[str, list[Move]] = field(default_factory=dict)
    """By parameter, empty where there is none: what would have these layers round as the student does."""
    _layer_of: dict[ir.Value, Layer] = field(default_factory=dict)

    def rewrite(self) -> None:
        """Every marker; ValueError: layers that would compute in float, a quantizer whose range does not contain 0."""
        self._layer_of = {layer.output: layer for layer in self.layers.values() if layer.plain}
        for marker in [node for node in self.editor.graph if is_marker(node, QUANTIZE)]:
            self._quantizer(marker)
        RemoveUnusedNodesPass()(self.editor.model)
        reasons: dict[str, list[str]] = {}
        for layer in [layer for node, layer in self.layers.items() if node.graph is not None]:
            reason = self._last(layer)
            if reason:
                reasons.setdefault(reason, []).append(layer.name)
        if reasons:
            found = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
            raise ValueError(
                f'form "int8" has no float convolutions, and these layers would be some: {found}. Quantize with '
                'placement="integer" (--placement integer), which quantizes all that layers read and write'
            )

    def _quantizer(self, marker: ir.Node) -> None:
        name = attribute(marker, "name", "")
        grid = self.grids[name]
        if not grid.contains_zero:
            raise ValueError(f'the range of quantizer {name!r} does not contain 0; form "int8" needs a code for it')
        codes = self._quantized(marker.inputs[0], _Wanted(marker, name, grid, 0, grid.largest))
        self.publish(marker, codes, grid)

    def _quantized(self, x: ir.Value | None, wanted: _Wanted) -> ir.Value:
        """Codes of ``x`` on the grid that is wanted."""
        assert x is not None
        found, node = self.codes_of(x), x.producer()
        if found is not None:
            return self._regridded(found, x, wanted)
        if node is None:
            return self._from_float(x, wanted)
        ends = rectifier(node)
        if ends is not None:
            return self._quantized(node.inputs[0], wanted.within(ends))
        layer = self._layer_of.get(x)
        made = self._computed(node, x, wanted) if layer is None else self._layer(layer, wanted)
        if made is not None:
            return made
        if keeps_codes(node):
            sources = node.inputs if node.op_type == "Concat" else node.inputs[:1]
            codes = [self._quantized(source, wanted) for source in sources]
            return self.moved(wanted.marker, node, codes, wanted.grid)
        return self._from_float(x, wanted)

    def _from_float(self, x: ir.Value, wanted: _Wanted) -> ir.Value:
        """Of the images, and of what is computed in float."""
        inputs = [x, *self.parameters(wanted.grid, wanted.name)]
        codes = self.editor.before(wanted.marker, "QuantizeLinear", inputs, name=f"{wanted.name}.quantized")
        return self._clipped(codes, wanted)

    def _clipped(self, codes: ir.Value, wanted: _Wanted) -> ir.Value:
        return self.clip(wanted.marker, codes, wanted.first, wanted.last, wanted.name)

    def _regridded(self, found: Found, x: ir.Value, wanted: _Wanted) -> ir.Value:
        """Codes of another grid, through a table of 256 (that of a LeakyReLU whose slope is 1)."""
        codes, grid = found
        if grid == wanted.grid:
            inside = wanted.first <= 0 and wanted.last >= grid.largest
            return codes if inside else self._clipped(codes, wanted)
        return self._contributed("LeakyRelu", [found], x, wanted, {"alpha": 1.0})

    def _contributed(
        self, op: str, sources: list[Found], x: ir.Value, wanted: _Wanted, attributes: dict[str, Any] | None = None
    ) -> ir.Value:
        """An operator of onnxruntime's own domain, on codes, that gives ``x``."""
        name, inputs = f"{wanted.name}.{op.lower()}", []
        for number, (codes, grid) in enumerate(sources):
            inputs += [codes, *self.parameters(grid, f"{name}.{number}")]
        inputs += self.parameters(wanted.grid, wanted.name)
        made = self.editor.before(
            wanted.marker, f"QLinear{op}", inputs, attributes, name=f"{name}.requantized", domain=_CONTRIB
        )
        made.type, made.shape = ir.TensorType(ir.DataType.UINT8), x.shape
        return self._clipped(made, wanted)

    def _computed(self, node: ir.Node, x: ir.Value, wanted: _Wanted) -> ir.Value | None:
        """What is not a layer; None if integers do not compute it."""
        if node.op_type in ("Add", "Mul"):
            found = [self.codes_of(value) for value in node.inputs]
            sources = [codes for codes in found if codes is not None]
            return self._contributed(node.op_type, sources, x, wanted) if len(sources) == len(found) else None
        source = self.codes_of(node.inputs[0]) if node.inputs else None
        if source is None:
            return None
        if node.op_type == "BatchNormalization":
            return self._norm(node, source, wanted)
        if is_global_mean(node):
            pooled = self._contributed("GlobalAveragePool", [source], x, wanted, {"channels_last": 0})
            if x.shape is not None and len(x.shape) == 2:
                pooled.shape = None
                return self.editor.before(wanted.marker, "Flatten", [pooled], name=f"{wanted.name}.flat")
            return pooled
        if node.op_type == "AveragePool":
            return self._contributed("AveragePool", [source], x, wanted, attributes_of(node))
        return None

    def _norm(self, node: ir.Node, source: Found, wanted: _Wanted) -> ir.Value | None:
        """A BatchNorm with no convolution before it: a depthwise one with the weights 1 and -1."""
        folded, shape = batch_norm(node), node.outputs[0].shape
        if folded is None or shape is None or len(shape) != 4:
            return None
        factor, shift = folded
        signs = np.where(factor < 0, -1, 1).reshape(-1, 1, 1, 1)
        products = Products(node.name or "norm", signs, np.abs(factor), shift, shift_name(node))
        return self._requantized(products, source, wanted, {"group": len(factor)})

    def _layer(self, layer: Layer, wanted: _Wanted) -> ir.Value | None:
        found, node = self.codes_of(layer.node.inputs[0]), layer.node
        if found is None:
            return None
        products = Products.of(layer)
        if node.op_type == "Conv":
            return self._requantized(products, found, wanted, attributes_of(node))
        products = replace(products, integers=products.integers[..., None, None])  # of a map of one pixel
        axes = self.editor.constant(np.asarray([2, 3]), f"{layer.name}.axes")
        inputs = [found[0], axes]
        source = self.editor.before(wanted.marker, "Unsqueeze", inputs, name=f"{layer.name}.pixel"), found[1]
        output = self._requantized(products, source, wanted, {})
        return self.editor.before(wanted.marker, "Flatten", [output], name=f"{layer.name}.features")

    def _requantized(self, products: Products, source: Found, wanted: _Wanted, attributes: dict[str, Any]) -> ir.Value:
        ends = source[1], wanted.grid, wanted.first, wanted.last
        found = requantized(products, *ends, exact=False)
        assert found is not None
        if found.rounding:
            self.rounded[products.name] = found.rounding
        if found.moved is not None:
            move = Move(products.name, found.moved, wanted.grid.step)
            self.moves.setdefault(products.bias_name, []).append(move)
        grid = wanted.name, wanted.grid
        output = self.convolution(wanted.marker, found, products.name, source, grid, attributes)
        return self._clipped(output, wanted)

    def _last(self, layer: Layer) -> str:
        """A linear layer, or a convolution of one pixel, whose output is float; or why it cannot be written."""
        if not layer.plain:
            return "its weight is not used by a convolution or linear layer alone"
        found = self.codes_of(layer.node.inputs[0])
        if found is None:
            return _NOT_READ
        if layer.node.op_type == "Conv" and not one_pixel(layer.node):
            return _NOT_WRITTEN
        self.exact_sums(layer, *found, "MatMulInteger")
        return ""


def is_global_mean(node: ir.Node) -> bool:
    """The mean of every channel of a map."""
    x = node.inputs[0]
    shape = None if x is None or x.shape is None else list(x.shape)
    if node.op_type == "ReduceMean" and len(node.inputs) > 1 and shape is not None:
        axes = constant_of(node.inputs[1])
        return len(shape) == 4 and axes is not None and sorted(int(a) % 4 for a in axes.flat) == [2, 3]
    if node.op_type == "AveragePool":
        whole = shape is not None and list(attribute(node, "kernel_shape", ())) == shape[2:]
        return whole and not any(attribute(node, "pads", ()))
    return node.op_type == "GlobalAveragePool"


def one_pixel(node: ir.Node) -> bool:
    """A convolution of maps of one pixel, as a linear layer."""
    x = node.inputs[0]
    sizes = [] if x is None or x.shape is None else list(x.shape)[2:]
    kernel, groups = attribute(node, "kernel_shape", ()), attribute(node, "group", 1)
    return sizes == [1, 1] and list(kernel) == [1, 1] and groups == 1 and not any(attribute(node, "pads", ()))
