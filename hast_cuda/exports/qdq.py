"""Quantizers as QuantizeLinear and DequantizeLinear to uint8, for runtimes that fuse them into integer kernels.

Such a runtime (OpenVINO) reads that a convolution stands between DequantizeLinear of its input and of
its int8 weights, and computes it on the codes. Where a quantizer has fewer codes than uint8, a Clip in
float stands before it, which goes into the convolution as its activation does.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hast_cuda.exports.dequantized import LARGEST_INT8, add_bias, rectifier
from hast_cuda.exports.editing import Editor, attribute
from hast_cuda.exports.folded import Layer
from hast_cuda.exports.grid import Affine

_LARGEST_CODE = 255


def quantized_pair(editor: Editor, marker: ir.Node, affine: Affine) -> None:
    """``Clip -> QuantizeLinear -> DequantizeLinear`` in place of a marker; ReLU and ReLU6 go into the Clip.

    Raises:
        ValueError: the range does not contain 0, for which uint8 needs a code.
    """
    name, x = attribute(marker, "name", ""), marker.inputs[0]
    assert x is not None
    if not affine.contains_zero:
        raise ValueError(f'the range of quantizer {name!r} does not contain 0; form "qdq" needs a code for it')
    lower, upper = affine.bounds
    node = x.producer()
    ends = None if node is None else rectifier(node)
    if node is not None and ends is not None:
        x = node.inputs[0]
        lower, upper = max(lower, ends[0]), min(upper, ends[1])
    grid = [
        editor.constant(np.asarray(affine.step, np.float32), f"{name}.scale"),
        editor.constant(np.asarray(affine.zero_point, np.uint8), f"{name}.zero_point"),
    ]
    if affine.largest < _LARGEST_CODE or (lower, upper) != affine.bounds:
        clamp = [
            editor.constant(np.asarray(end, np.float32), f"{name}.{label}")
            for end, label in ((lower, "lower"), (upper, "upper"))
        ]
        x = editor.before(marker, "Clip", [x, *clamp], name=f"{name}.clipped")
    codes = editor.before(marker, "QuantizeLinear", [x, *grid], name=f"{name}.quantized")
    value = editor.before(marker, "DequantizeLinear", [codes, *grid], name=f"{name}.dequantized")
    editor.replace(marker.outputs[0], value)


def dequantized_layer(editor: Editor, layer: Layer) -> str:
    """The layer on int8 weights with zero point 0; why they are not the student's, empty if they are.

    The bias is an addition of its own: the runtime adds it to the float sums, and does not round it.
    """
    integers, scale = layer.signed_codes()
    rows = integers.reshape(len(integers), -1)
    biggest = np.abs(rows).max(axis=1, initial=0)
    wide = biggest > LARGEST_INT8
    factor = np.where(wide, LARGEST_INT8 / np.maximum(biggest, 1), 1.0)
    weights = np.rint(integers * layer.column(factor)).astype(np.int8)
    place, name = layer.node, layer.name
    zeros = np.zeros(len(rows), np.int8)
    inputs = [
        editor.constant(weights, f"{name}.weight_integers"),
        editor.constant((scale / factor).astype(np.float32), f"{name}.weight_scale"),
        editor.constant(zeros, f"{name}.weight_zero_point"),
    ]
    weight = editor.before(place, "DequantizeLinear", inputs, {"axis": 0}, name=f"{name}.weight_dequantized")
    if not layer.plain:
        editor.replace(layer.output, weight)
    else:
        operands = [place.inputs[0], weight]
        output = editor.like(place, place, operands, name=f"{name}.product")
        editor.replace(layer.output, add_bias(editor, layer, output))
    return "weights that do not fit int8 with zero point 0 are rounded once more" if wide.any() else ""
