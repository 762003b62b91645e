"""Quantizers written as QuantizeLinear and DequantizeLinear around float operations."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hast_cuda.exports.editing import Editor, attribute, constant_of, only_consumer
from hast_cuda.exports.folded import Layer
from hast_cuda.exports.grid import Affine

LARGEST_INT8 = 127
Kind = np.dtype[np.generic]


def dequantized_weight(editor: Editor, layer: Layer, kind: Kind) -> ir.Value:
    """Constants and nodes that give the weight as float, in front of the layer.

    ``weight = scale * (integers - zero_point) + offset``: int8 has zero point 0, and where the
    codes do not fit becomes uint8 with an offset; unsigned kinds have zero points, and an offset
    where a range does not contain 0.
    """
    integers, scale = layer.signed_codes()
    zero_point = offset = None
    if kind != np.int8 or np.abs(integers).max(initial=0) > LARGEST_INT8:
        integers, zero_point = layer.flipped()
        if kind == np.int8 or not bool(layer.codes.grid.contains_zero.all()):
            offset, zero_point = layer.column(-scale * zero_point), None
            kind = np.dtype(np.uint8) if kind == np.int8 else kind
    place, name = layer.node, layer.name
    inputs = [
        editor.constant(integers.astype(kind), f"{name}.weight_integers"),
        editor.constant(scale.astype(np.float32), f"{name}.weight_scale"),
    ]
    if zero_point is not None:
        inputs.append(editor.constant(zero_point.astype(kind), f"{name}.weight_zero_point"))
    weight = editor.before(place, "DequantizeLinear", inputs, {"axis": 0}, name=f"{name}.weight_dequantized")
    if offset is None:
        return weight
    constant = editor.constant(offset.astype(np.float32), f"{name}.weight_offset")
    return editor.before(place, "Add", [weight, constant], name=f"{name}.weight_shifted")


def float_layer(editor: Editor, layer: Layer, kind: Kind) -> None:
    """The layer on float inputs; its bias as an operation of its own.

    Runtimes round a bias inside a convolution between quantizers to multiples of input scale times
    weight scale, which is coarse at 3 and 4 bits; they leave an addition alone.
    """
    weight = dequantized_weight(editor, layer, kind)
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
    column = layer.column(layer.bias)[..., 0].astype(np.float32)
    bias = editor.constant(column, f"{layer.name}.bias")
    return editor.before(layer.node, "Add", [output, bias], name=f"{layer.name}.output")


def clipped_quantizer(editor: Editor, marker: ir.Node, affine: Affine, kind: Kind) -> None:
    """``Clip -> QuantizeLinear -> DequantizeLinear`` in place of a marker.

    int8 has zero point 0 (an offset where the codes do not fit); uint4 the codes and their zero
    point (an offset where the range does not contain 0). uint4 saturates at code 0 by itself; a
    minimum in front sets the largest code. (onnxruntime 1.32 fails on a Clip there, and on pooling
    that it may move into the quantizer.)
    """
    name = attribute(marker, "name", "")
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
    grid = [
        editor.constant(np.asarray(step), f"{name}.scale"),
        editor.constant(np.asarray(zero_point, kind), f"{name}.zero_point"),
    ]
    ends = [
        editor.constant(np.asarray(step * np.float32(code)), f"{name}.{end}")
        for end, code in (("lower", first), ("upper", last))
        if kind == np.int8 or end == "upper"
    ]
    clip = "Clip" if kind == np.int8 else "Min"
    x = editor.before(marker, clip, [x, *ends], name=f"{name}.clipped")
    x = editor.before(marker, "QuantizeLinear", [x, *grid], name=f"{name}.quantized")
    x = editor.before(marker, "DequantizeLinear", [x, *grid], name=f"{name}.dequantized")
    if shift is not None:
        x = editor.before(marker, "Add", [x, shift], name=f"{name}.restored")
    editor.replace(marker.outputs[0], x)


def quantize_after_pooling(editor: Editor, marker: ir.Node) -> list[ir.Node]:
    """Markers behind the maximum poolings that use ``marker``, and ``marker`` if others do too.

    The code of a maximum is the maximum of the codes, and no runtime pools 4-bit codes.
    """
    users = [use.node for use in marker.outputs[0].uses()]
    moved = []
    for pool in (user for user in users if user.op_type == "MaxPool" and len(user.outputs) == 1):
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
    ends = None if node is None or only_consumer(x) is None else rectifier(node)
    if node is None or ends is None:
        return x
    inner = node.inputs[0]
    assert inner is not None
    return inner if affine.bounds[0] >= ends[0] and affine.bounds[1] <= ends[1] else x


def rectifier(node: ir.Node) -> tuple[float, float] | None:
    """Ends between which a node clamps its input; None if that is not what it does."""
    if node.op_type == "Relu":
        return 0.0, float("inf")
    if node.op_type != "Clip" or len(node.inputs) < 3:
        return None
    low, high = (constant_of(value) for value in node.inputs[1:3])
    return None if low is None or high is None else (float(low), float(high))


_LARGEST_CODE = 255


def quantized_pair(editor: Editor, marker: ir.Node, affine: Affine) -> None:
    """``Clip -> QuantizeLinear -> DequantizeLinear`` in place of a marker; ReLU and ReLU6 go into the Clip.

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
