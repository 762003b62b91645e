"""Quantizers written as QuantizeLinear and DequantizeLinear around float operations."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hast_cuda.exports.affine import Affine
from hast_cuda.exports.editing import Editor, attribute, constant_of, only_consumer
from hast_cuda.exports.folded import Layer
from hast_cuda.exports.grid import Grid
from hast_cuda.exports.stored import LARGEST_INT8, StoredWeight


def dequantize_weight(editor: Editor, layer: Layer, stored: StoredWeight) -> ir.Value:
    """Constants and nodes that give the weight as float, in front of the layer."""
    place, name = layer.node, layer.name
    inputs = [
        editor.constant(stored.integers, f"{name}.weight_integers"),
        editor.constant(stored.scale, f"{name}.weight_scale"),
    ]
    if stored.zero_point is not None:
        inputs.append(editor.constant(stored.zero_point, f"{name}.weight_zero_point"))
    weight = editor.before(
        place, "DequantizeLinear", inputs, {"axis": 0}, name=f"{name}.weight_dequantized"
    )
    if stored.offset is None:
        return weight
    column = stored.offset.reshape(-1, *[1] * (stored.integers.ndim - 1))
    offset = editor.constant(column, f"{name}.weight_offset")
    return editor.before(place, "Add", [weight, offset], name=f"{name}.weight_shifted")


def float_layer(editor: Editor, layer: Layer, stored: StoredWeight) -> None:
    """The layer on float inputs; its bias as an operation of its own.

    Runtimes round a bias inside a convolution between quantizers to multiples of input scale times
    weight scale, which is coarse at 3 and 4 bits; they leave an addition alone.
    """
    weight = dequantize_weight(editor, layer, stored)
    if not layer.plain:
        editor.replace(layer.output, weight)
        return
    inputs = [layer.node.inputs[0], weight]
    output = editor.like(layer.node, layer.node, inputs, name=f"{layer.name}.product")
    editor.replace(layer.output, add_bias(editor, layer, output))


def add_bias(editor: Editor, layer: Layer, output: ir.Value) -> ir.Value:
    """``output`` plus the layer's bias, if it has one."""
    if layer.bias is None:
        return output
    shape = (-1, *[1] * (layer.codes.codes.dim() - 2))
    bias = editor.constant(layer.bias.astype(np.float32).reshape(shape), f"{layer.name}.bias")
    return editor.before(layer.node, "Add", [output, bias], name=f"{layer.name}.output")


def clipped_quantizer(
    editor: Editor, marker: ir.Node, grid: Grid, kind: np.dtype[np.generic]
) -> None:
    """``Clip -> QuantizeLinear -> DequantizeLinear`` in place of a marker.

    uint4 saturates at code 0 by itself; a minimum in front sets the largest code. (onnxruntime
    1.32 fails on a Clip there, and on pooling that it may move into the quantizer.)

    Args:
        editor: of the graph.
        marker: its node.
        grid: of the activation.
        kind: int8: zero point 0 (an offset where the codes do not fit); uint4: codes and their zero
            point (an offset where the range does not contain 0).
    """
    name, affine = attribute(marker, "name", ""), Affine.of(grid)
    x = without_rectifier(marker.inputs[0], affine)
    zero_point, first, last = 0, -affine.zero_point, affine.largest - affine.zero_point
    if kind == np.int8:
        fits = first >= -LARGEST_INT8 - 1 and last <= LARGEST_INT8
    else:
        fits, zero_point = affine.contains_zero, affine.zero_point
    shift = None
    if not fits:  # quantize the distance from code `origin` instead
        origin = 128 if kind == np.int8 and affine.bits == 8 else 0
        zero_point, first, last = 0, -origin, affine.largest - origin
        value = np.float32(affine.step * (origin - affine.zero_point))
        shift = editor.constant(np.asarray(value), f"{name}.offset")
        x = editor.before(marker, "Sub", [x, shift], name=f"{name}.shifted")
    step = np.float32(affine.step)
    low, high = (np.asarray(step * np.float32(end)) for end in (first, last))
    scale = editor.constant(np.asarray(step), f"{name}.scale")
    zero = editor.constant(np.asarray(zero_point, kind), f"{name}.zero_point")
    if kind == np.int8:
        ends = [editor.constant(low, f"{name}.lower"), editor.constant(high, f"{name}.upper")]
        x = editor.before(marker, "Clip", [x, *ends], name=f"{name}.clipped")
    else:
        ends = [editor.constant(high, f"{name}.upper")]
        x = editor.before(marker, "Min", [x, *ends], name=f"{name}.clipped")
    x = editor.before(marker, "QuantizeLinear", [x, scale, zero], name=f"{name}.quantized")
    x = editor.before(marker, "DequantizeLinear", [x, scale, zero], name=f"{name}.dequantized")
    if shift is not None:
        x = editor.before(marker, "Add", [x, shift], name=f"{name}.restored")
    editor.replace(marker.outputs[0], x)


def quantize_after_pooling(editor: Editor, marker: ir.Node) -> list[ir.Node]:
    """Markers behind the maximum poolings that use ``marker``, and ``marker`` if others do too.

    The code of a maximum is the maximum of the codes, and no runtime pools 4-bit codes.
    """
    pools = [use.node for use in marker.outputs[0].uses() if use.node.op_type == "MaxPool"]
    moved = []
    for pool in pools:
        if len(pool.outputs) != 1:
            continue
        pooled = editor.like(pool, pool, [marker.inputs[0]], name=f"{pool.name}.moved")
        value = editor.like(pool, marker, [pooled], name=f"{attribute(marker, 'name', '')}.pooled")
        producer = value.producer()
        assert producer is not None
        editor.replace(pool.outputs[0], value)
        moved.append(producer)
    return [marker, *moved] if list(marker.outputs[0].uses()) else moved


def without_rectifier(x: ir.Value | None, affine: Affine) -> ir.Value:
    """What goes into a ReLU or ReLU6 whose effect the grid's own ends have."""
    assert x is not None
    node = x.producer()
    if node is None or only_consumer(x) is None:
        return x
    ends = rectifier(node)
    if ends is None:
        return x
    low, high = affine.bounds
    inner = node.inputs[0]
    assert inner is not None
    return inner if low >= ends[0] and high <= ends[1] else x


def rectifier(node: ir.Node) -> tuple[float, float] | None:
    """Ends between which a node clamps its input; None if that is not what it does."""
    if node.op_type == "Relu":
        return 0.0, float("inf")
    if node.op_type != "Clip" or len(node.inputs) < 3:
        return None
    ends = [constant_of(value) for value in node.inputs[1:3]]
    if ends[0] is None or ends[1] is None:
        return None
    return float(ends[0]), float(ends[1])
