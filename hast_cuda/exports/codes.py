"""uint8 codes of the values of a graph: where they are, and what keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from hast_cuda.exports.dequantized import add_bias
from hast_cuda.exports.editing import Editor, attribute, attributes_of, constant_of
from hast_cuda.exports.folded import Layer
from hast_cuda.exports.grid import Affine
from hast_cuda.exports.requantize import Requantized, unsigned

# Codes pass through these as they are (a maximum of codes is the code of the maximum).
PASSING = ("Identity", "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Gather")
Found = tuple[ir.Value, Affine]


@dataclass
class CodeGraph:
    """A marked graph in which more and more values have codes."""

    editor: Editor
    grids: dict[str, Affine]
    layers: dict[ir.Node, Layer]
    codes: dict[ir.Value, Found] = field(default_factory=dict)
    """uint8 codes of dequantized values."""

    def parameters(self, affine: Affine, name: str) -> tuple[ir.Value, ir.Value]:
        """Scale and zero point of a grid, as constants."""
        return (
            self.editor.constant(np.asarray(affine.step, np.float32), f"{name}.scale"),
            self.editor.constant(np.asarray(affine.zero_point, np.uint8), f"{name}.zero_point"),
        )

    def clip(self, place: ir.Node, codes: ir.Value, low: int, high: int, name: str) -> ir.Value:
        """Codes to [low, high]; what uint8 itself does not do."""
        if low <= 0 and high >= 255:
            return codes
        ends = [
            self.editor.constant(np.asarray(end, np.uint8), f"{name}.{label}")
            for end, label in ((low, "lowest"), (high, "highest"))
        ]
        return self.editor.before(place, "Clip", [codes, *ends], name=f"{name}.codes")

    def publish(self, marker: ir.Node, codes: ir.Value, affine: Affine, shift: ir.Value | None = None) -> None:
        """The float value of ``codes`` (plus ``shift``) in place of the marker."""
        name = attribute(marker, "name", "")
        inputs = [codes, *self.parameters(affine, name)]
        value = self.editor.before(marker, "DequantizeLinear", inputs, name=f"{name}.dequantized")
        if shift is not None:
            value = self.editor.before(marker, "Add", [value, shift], name=f"{name}.restored")
        else:
            self.codes[value] = codes, affine
        self.editor.replace(marker.outputs[0], value)

    def codes_of(self, x: ir.Value | None) -> Found | None:
        """uint8 codes of a float value, moved through operations that keep them.

        What such an operation gave as float is then dequantized from its codes: it runs once.
        """
        if x is None or x in self.codes:
            return None if x is None else self.codes[x]
        node = x.producer()
        sources = () if node is None else node.inputs if node.op_type == "Concat" else node.inputs[:1]
        if node is None or not keeps_codes(node):
            return None
        found = [self.codes_of(source) for source in sources]
        grids = {None if codes is None else codes[1] for codes in found}
        affine = grids.pop()
        if affine is None or grids:
            return None
        moved = self.moved(node, node, [codes[0] for codes in found if codes is not None], affine)
        inputs = [moved, *self.parameters(affine, f"{node.name}.moved")]
        value = self.editor.before(node, "DequantizeLinear", inputs, name=f"{node.name or 'moved'}.dequantized")
        self.codes[x] = self.codes[value] = moved, affine
        self.editor.replace(x, value)
        return self.codes[x]

    def moved(self, place: ir.Node, node: ir.Node, codes: list[ir.Value], affine: Affine) -> ir.Value:
        """The operation of ``node``, which keeps codes, on those of its inputs."""
        inputs = [*codes, *(() if node.op_type == "Concat" else node.inputs[1:])]
        if node.op_type == "Pad":
            zero = self.editor.constant(np.asarray(affine.zero_point, np.uint8), f"{node.name}.zero_point")
            inputs = [codes[0], node.inputs[1], zero, *node.inputs[3:]]
        return self.editor.like(place, node, inputs, name=f"{node.name or 'moved'}.codes")

    def convolution(
        self,
        place: ir.Node,
        found: Requantized,
        name: str,
        source: Found,
        target: tuple[str, Affine],
        attributes: Mapping[str, Any],
    ) -> ir.Value:
        """A ``QLinearConv`` from ``source`` to the grid ``target``, not clipped."""
        inputs = [
            source[0],
            *self.parameters(source[1], f"{name}.input"),
            self.editor.constant(found.weights, f"{name}.weight_integers"),
            self.editor.constant(found.scale, f"{name}.weight_scale"),
            self.editor.constant(found.zero_point, f"{name}.weight_zero_point"),
            *self.parameters(target[1], target[0]),
            self.editor.constant(found.bias, f"{name}.bias_integers"),
        ]
        return self.editor.before(place, "QLinearConv", inputs, attributes, name=f"{name}.requantized")

    def exact_sums(self, layer: Layer, codes: ir.Value, affine: Affine, operation: str) -> None:
        """int32 sums of integer products, then ``scale * sum + bias`` in float.

        ``operation``: ConvInteger, or MatMulInteger for linear layers and convolutions of one pixel.
        """
        integers, scale = layer.signed_codes()
        constant, before, name, node = self.editor.constant, self.editor.before, layer.name, layer.node
        pixel = node.op_type == "Conv" and operation == "MatMulInteger"
        if pixel:  # a map of one pixel
            codes = before(node, "Flatten", [codes], name=f"{name}.features")
        # onnxruntime's fast kernels take the weights as uint8 here
        shifted, zero_point = unsigned(integers)
        linear = operation == "MatMulInteger"
        if linear:
            shifted = np.ascontiguousarray(shifted.reshape(len(shifted), -1).T)
        inputs = [
            codes,
            constant(shifted, f"{name}.weight_integers"),
            constant(np.asarray(affine.zero_point, np.uint8), f"{name}.input_zero"),
            constant(zero_point, f"{name}.weight_zero_point"),
        ]
        sums = before(node, operation, inputs, None if linear else attributes_of(node), name=f"{name}.sums")
        if pixel:
            axes = constant(np.asarray([2, 3]), f"{name}.axes")
            sums = before(node, "Unsqueeze", [sums, axes], name=f"{name}.pixel")
        number = before(node, "Cast", [sums], {"to": ir.DataType.FLOAT}, name=f"{name}.float")
        factors = (scale * affine.step).astype(np.float32)
        factor = constant(factors if node.op_type == "Gemm" else factors.reshape(-1, 1, 1), f"{name}.output_scale")
        product = before(node, "Mul", [number, factor], name=f"{name}.product")
        self.editor.replace(layer.output, add_bias(self.editor, layer, product))


def keeps_codes(node: ir.Node) -> bool:
    """What ``node`` gives are the numbers that it reads, and zeros."""
    if len(node.outputs) != 1 or node.domain:
        return False
    if node.op_type == "Pad":
        given = constant_of(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else 0
        return attribute(node, "mode", "constant") == "constant" and given is not None and not np.any(given)
    return node.op_type in (*PASSING, "Concat")
