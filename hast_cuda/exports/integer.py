"""Integer convolutions for onnxruntime: the operators that it has fast kernels for.

A convolution whose output goes through ReLU into a quantizer is one ``QLinearConv`` from uint8 to
uint8. Any other (in front of a residual sum, say) is a ``ConvInteger``, whose int32 sums are exact,
scaled to float afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from hast_cuda.exports.dequantized import LARGEST_INT8, add_bias, float_layer, rectifier, without_rectifier
from hast_cuda.exports.editing import Array, Editor, attribute, attributes_of, only_consumer
from hast_cuda.exports.folded import Layer, is_marker
from hast_cuda.exports.grid import Affine
from hast_cuda.exports.marked import QUANTIZE
from hast_cuda.exports.requantize import Requantization, exact_requantization

# Codes pass through these as they are (a maximum of codes is the code of the maximum).
_PASSING = ("Identity", "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze")
_LARGEST_PAIR = 32767  # two products must fit 16 bits on processors without VNNI


@dataclass
class IntegerRewriter:
    """Replaces markers and quantized layers, in the order of execution."""

    editor: Editor
    grids: dict[str, Affine]
    layers: dict[ir.Node, Layer]
    codes: dict[ir.Value, tuple[ir.Value, Affine]] = field(default_factory=dict)
    """uint8 codes of dequantized values."""
    reasons: dict[str, str] = field(default_factory=dict)  # layers that compute in float, and why

    def rewrite(self) -> None:
        """Every marker of the graph."""
        for node in list(self.editor.graph):
            if is_marker(node, QUANTIZE):
                self._quantizer(node)
            elif node in self.layers:
                layer = self.layers[node]
                reason = self._integer_layer(layer)
                if reason:
                    self.reasons[layer.name] = reason
                    float_layer(self.editor, layer, np.dtype(np.int8))

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
        inputs = [x, *self._parameters(affine, name)]
        codes = self.editor.before(marker, "QuantizeLinear", inputs, name=f"{name}.quantized")
        self._publish(marker, self._clip(marker, codes, 0, affine.largest, name), affine, shift)

    def _publish(self, marker: ir.Node, codes: ir.Value, affine: Affine, shift: ir.Value | None = None) -> None:
        """The float value of ``codes`` in place of the marker."""
        name = attribute(marker, "name", "")
        inputs = [codes, *self._parameters(affine, name)]
        value = self.editor.before(marker, "DequantizeLinear", inputs, name=f"{name}.dequantized")
        if shift is not None:
            value = self.editor.before(marker, "Add", [value, shift], name=f"{name}.restored")
        else:
            self.codes[value] = codes, affine
        self.editor.replace(marker.outputs[0], value)

    def _parameters(self, affine: Affine, name: str) -> tuple[ir.Value, ir.Value]:
        return (
            self.editor.constant(np.asarray(affine.step, np.float32), f"{name}.scale"),
            self.editor.constant(np.asarray(affine.zero_point, np.uint8), f"{name}.zero_point"),
        )

    def _clip(self, place: ir.Node, codes: ir.Value, low: int, high: int, name: str) -> ir.Value:
        """Codes to [low, high]; what uint8 itself does not do."""
        if low <= 0 and high >= 255:
            return codes
        ends = [
            self.editor.constant(np.asarray(end, np.uint8), f"{name}.{label}")
            for end, label in ((low, "lowest"), (high, "highest"))
        ]
        return self.editor.before(place, "Clip", [codes, *ends], name=f"{name}.codes")

    def _integer_layer(self, layer: Layer) -> str:
        """Write the layer with integers; or say why not."""
        if not layer.plain:
            return "its weight is not used by a convolution or linear layer alone"
        found = self._codes_of(layer.node.inputs[0])
        if found is None:
            return "its input is not quantized"
        fits = bool(np.abs(layer.signed_codes()[0]).max(initial=0) <= LARGEST_INT8)
        if layer.node.op_type == "Conv":
            if not fits and not bool(layer.codes.grid.contains_zero.all()):
                return "a channel's range lies too far from 0"
            if self._requantized(layer, *found):
                return ""
        if not fits:
            return "its weights need more than 8 bits without zero points"
        self._exact(layer, *found)
        return ""

    def _codes_of(self, x: ir.Value | None) -> tuple[ir.Value, Affine] | None:
        """uint8 codes of a float value, moved through operations that keep them."""
        if x is None or x in self.codes:
            return None if x is None else self.codes[x]
        node = x.producer()
        if node is None or node.op_type not in _PASSING or len(node.outputs) != 1:
            return None
        found = self._codes_of(node.inputs[0])
        if found is None:
            return None
        inputs, name = [found[0], *node.inputs[1:]], f"{node.name or 'moved'}.codes"
        self.codes[x] = self.editor.like(node, node, inputs, name=name), found[1]
        return self.codes[x]

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
        weights = _requantized_weights(layer, affine, after, first, last)
        if weights is None:
            return False
        integers, zero_point, found = weights
        constant = self.editor.constant
        inputs = [
            codes,
            *self._parameters(affine, f"{layer.name}.input"),
            constant(integers, f"{layer.name}.weight_integers"),
            constant(found.scale.astype(np.float32), f"{layer.name}.weight_scale"),
            constant(zero_point, f"{layer.name}.weight_zero_point"),
            *self._parameters(after, name),
            constant(found.bias.astype(np.int32), f"{layer.name}.bias_integers"),
        ]
        output = self.editor.before(
            layer.node, "QLinearConv", inputs, attributes_of(layer.node), name=f"{layer.name}.requantized"
        )
        self._publish(marker, self._clip(marker, output, first, last, name), after)
        return True

    def _exact(self, layer: Layer, codes: ir.Value, affine: Affine) -> None:
        """int32 sums of integer products, then ``scale * sum + bias`` in float."""
        integers, scale = layer.signed_codes()
        convolution = layer.node.op_type == "Conv"
        # onnxruntime's fast kernels take the weights as uint8 here
        shifted = (integers + 128).astype(np.uint8)
        shape = (-1, 1, 1) if convolution else (-1,)
        constant, before, name = self.editor.constant, self.editor.before, layer.name
        shifted = shifted if convolution else np.ascontiguousarray(shifted.T)
        inputs = [
            codes,
            constant(shifted, f"{name}.weight_integers"),
            constant(np.asarray(affine.zero_point, np.uint8), f"{name}.input_zero"),
            constant(np.asarray(128, np.uint8), f"{name}.weight_zero_point"),
        ]
        sums = before(
            layer.node,
            "ConvInteger" if convolution else "MatMulInteger",
            inputs,
            attributes_of(layer.node) if convolution else None,
            name=f"{name}.sums",
        )
        number = before(layer.node, "Cast", [sums], {"to": ir.DataType.FLOAT}, name=f"{name}.float")
        factors = (scale * affine.step).astype(np.float32).reshape(shape)
        factor = constant(factors, f"{name}.output_scale")
        product = before(layer.node, "Mul", [number, factor], name=f"{name}.product")
        self.editor.replace(layer.output, add_bias(self.editor, layer, product))


def _requantized_weights(
    layer: Layer, before: Affine, after: Affine, first: int, last: int
) -> tuple[Array, Array, Requantization] | None:
    """Integers, their zero points and exact parameters of a QLinearConv, if there are any."""
    integers, scale = layer.signed_codes()
    rows = integers.reshape(len(integers), -1)
    bias = np.zeros(len(rows)) if layer.bias is None else layer.bias
    # Channels that BatchNorm or their weights make constant: any scale will do.
    dead = (np.abs(rows).max(axis=1, initial=0) == 0) | (layer.multiplier == 0)
    rows, scale = rows * ~dead[:, None], np.where(dead, after.step / before.step, scale)
    wide = bool(np.abs(rows).max(initial=0) > LARGEST_INT8)  # codes with zero points, unmultiplied
    largest = 0 if wide else min(LARGEST_INT8, _LARGEST_PAIR // (2 * before.largest))
    found = exact_requantization(rows, scale, bias, before, after, first=first, last=last, largest=largest)
    if found is None:
        return None
    if wide:
        codes, zero_point = layer.flipped()
        codes = np.where(layer.column(dead), layer.column(zero_point), codes)
        return codes.astype(np.uint8), zero_point.astype(np.uint8), found
    multiplied = (rows * found.multiplier[:, None]).reshape(integers.shape)
    return multiplied.astype(np.int8), np.zeros(len(rows), np.int8), found
