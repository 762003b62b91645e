"""Integer convolutions for onnxruntime: the operators that it has fast kernels for.

A convolution whose output goes through ReLU into a quantizer is one ``QLinearConv`` from uint8 to
uint8. Any other (in front of a residual sum, say) is a ``ConvInteger``, whose int32 sums are exact,
scaled to float afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from hast_cuda.exports.codes import CodeGraph
from hast_cuda.exports.dequantized import (
    LARGEST_INT8,
    float_layer,
    quantize_after_pooling,
    rectifier,
    without_rectifier,
)
from hast_cuda.exports.editing import attribute, attributes_of, only_consumer
from hast_cuda.exports.folded import Layer, is_marker
from hast_cuda.exports.grid import Affine
from hast_cuda.exports.marked import QUANTIZE
from hast_cuda.exports.requantize import Products, requantized


@dataclass
class IntegerRewriter(CodeGraph):
    """Replaces markers and quantized layers, in the order of execution."""

    reasons: dict[str, str] = field(default_factory=dict)  # layers that compute in float, and why

    def rewrite(self) -> None:
        """Every marker of the graph."""
        for node in list(self.editor.graph):
            if is_marker(node, QUANTIZE):
                for marker in self._behind_pools(node):
                    self._quantizer(marker)
            elif node in self.layers:
                layer = self.layers[node]
                reason = self._integer_layer(layer)
                if reason:
                    self.reasons[layer.name] = reason
                    float_layer(self.editor, layer, np.dtype(np.int8))

    def _behind_pools(self, marker: ir.Node) -> list[ir.Node]:
        """Markers to replace: those behind the maximum poolings of a float that nothing else uses."""
        users = [use.node.op_type for use in marker.outputs[0].uses()]
        if users and set(users) == {"MaxPool"} and not marker.outputs[0].is_graph_output():
            return quantize_after_pooling(self.editor, marker)
        return [marker] if users or marker.outputs[0].is_graph_output() else []  # a convolution has it

    def _quantizer(self, marker: ir.Node) -> None:
        """``QuantizeLinear -> Clip`` to uint8, and back to float for whom it may concern."""
        name = attribute(marker, "name", "")
        affine = self.grids[name]
        x = without_rectifier(marker.inputs[0], affine)
        shift = None
        if not affine.contains_zero:
            offset = np.asarray(affine.bounds[0], np.float32)
            shift = self.editor.constant(offset, f"{name}.offset")
            x = self.editor.before(marker, "Sub", [x, shift], name=f"{name}.shifted")
            affine = Affine(affine.bits, affine.step, 0)
        inputs = [x, *self.parameters(affine, name)]
        codes = self.editor.before(marker, "QuantizeLinear", inputs, name=f"{name}.quantized")
        self.publish(marker, self.clip(marker, codes, 0, affine.largest, name), affine, shift)

    def _integer_layer(self, layer: Layer) -> str:
        """Write the layer with integers; or say why not."""
        if not layer.plain:
            return "its weight is not used by a convolution or linear layer alone"
        found = self.codes_of(layer.node.inputs[0])
        if found is None:
            return "its input is not quantized"
        fits = bool(np.abs(layer.signed_codes()[0]).max(initial=0) <= LARGEST_INT8)
        if layer.node.op_type == "Conv":
            if not fits and not bool(layer.codes.grid.contains_zero.all()):
                return "a channel's range lies too far from 0"
            if self._requantized(layer, *found):
                return ""
        if not fits and (layer.node.op_type == "Conv" or not bool(layer.codes.grid.contains_zero.all())):
            return "its weights need more than 8 bits without zero points"
        self.exact_sums(layer, *found, "ConvInteger" if layer.node.op_type == "Conv" else "MatMulInteger")
        return ""

    def _requantized(self, layer: Layer, codes: ir.Value, affine: Affine) -> bool:
        """One ``QLinearConv``, if only a rectifier stands before the next quantizer."""
        marker = only_consumer(layer.output)
        ends = None if marker is None else rectifier(marker)
        if marker is not None and ends is not None:
            marker = only_consumer(marker.outputs[0])
        if marker is None or not is_marker(marker, QUANTIZE):
            return False
        name = attribute(marker, "name", "")
        after = self.grids[name]
        if not after.contains_zero:
            return False
        first, last = 0, after.largest
        if ends is not None:
            first = max(first, after.zero_point + round(ends[0] / after.step))
            if np.isfinite(ends[1]):
                last = min(last, after.zero_point + round(ends[1] / after.step))
        found = requantized(Products.of(layer), affine, after, first, last, exact=True)
        if found is None:
            return False
        grids = (codes, affine), (name, after)
        output = self.convolution(layer.node, found, layer.name, *grids, attributes_of(layer.node))
        self.publish(marker, self.clip(marker, output, first, last, name), after)
        return True
