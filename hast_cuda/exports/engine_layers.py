"""Nodes of the graph as parts of the engine's steps: weights, windows, functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from hast_cuda.exports.dequantized import rectifier
from hast_cuda.exports.editing import Array, attribute, constant_of, only_consumer
from hast_cuda.exports.engine_steps import AVERAGE_POOL, MAX_POOL, Activation, Value, Weights, Window, of_node, refusal
from hast_cuda.exports.engine_views import View, image_shape
from hast_cuda.exports.folded import is_marker
from hast_cuda.exports.grid import values_of
from hast_cuda.exports.marked import WEIGHT, MarkedModel

LARGEST_WEIGHT = 255


def layer_of(marked: MarkedModel, node: ir.Node) -> tuple[str, Weights]:
    """Name and weights, [out, in, ...], of a Conv, Gemm or MatMul; ValueError naming what is wrong."""
    value, transposed = node.inputs[1], node.op_type == "Gemm" and not attribute(node, "transB", 0)
    producer = None if value is None else value.producer()
    if node.op_type == "MatMul":
        transposed = True
    if producer is not None and producer.op_type == "Transpose" and tuple(attribute(producer, "perm", ())) == (1, 0):
        value, transposed = producer.inputs[0], not transposed
        producer = None if value is None else value.producer()
    if value is not None and producer is not None and is_marker(producer, WEIGHT):
        name = str(attribute(producer, "name", ""))
        if transposed:
            raise refusal("layer", name, node.op_type, "its weight is used transposed")
        weights = quantized(marked, name)
    else:
        name, array = _name(node, value), constant_of(value)
        if array is None:
            raise of_node(node, "its weight is computed")
        array = array.T if transposed else array
        ones = np.ones(len(array))
        weights = Weights(array.astype(np.float32), ones, np.zeros(len(array)))
    given = node.inputs[2] if len(node.inputs) > 2 else None
    bias = constant_of(given)
    if given is not None and bias is None:
        raise refusal("layer", name, node.op_type, "its bias is computed")
    plain = (("transA", 0), ("alpha", 1.0), ("beta", 1.0))
    if node.op_type == "Gemm" and any(attribute(node, key, value) != value for key, value in plain):
        raise refusal("layer", name, "Gemm", "it is scaled or transposed")
    if bias is not None:
        shift = np.broadcast_to(bias.astype(np.float64).reshape(-1), weights.scale.shape)
        weights = weights.then(np.ones(len(weights.scale)), shift)
    return name, weights


def quantized(marked: MarkedModel, name: str) -> Weights:
    """Codes of a layer; floats where its integers do not fit the engine's."""
    found = marked.weights[name]
    grid, codes = found.grid, found.codes.numpy()
    zero_point = grid.zero_point.numpy()
    step = grid.exact_step.numpy()
    centred = codes.astype(np.int64) - zero_point.reshape(-1, *[1] * (codes.ndim - 1))
    zeros = np.zeros(len(codes))
    if np.abs(centred).max(initial=0) > LARGEST_WEIGHT:
        return Weights(values_of(found.codes, grid).float().numpy(), np.ones(len(codes)), zeros)
    return Weights(codes, step, zeros, grid.bits, zero_point)


def users_of_marker(marker: ir.Node) -> None:
    """ValueError, naming the layer, unless convolutions and linear layers alone use its weight."""
    for use in marker.outputs[0].uses():
        node, index = use.node, use.idx
        if node.op_type == "Transpose":
            inner = only_consumer(node.outputs[0])
            node, index = (node, -1) if inner is None else (inner, list(inner.inputs).index(node.outputs[0]))
        if node.op_type not in ("Conv", "Gemm", "MatMul") or index != 1:
            name = str(attribute(marker, "name", ""))
            raise refusal("layer", name, node.op_type, "its weight is not used by a convolution or linear layer alone")


def window_of(node: ir.Node, kernel: tuple[int, int]) -> Window:
    """Of a convolution or pool, as far as the node itself says."""
    if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise of_node(node, f"auto_pad={attribute(node, 'auto_pad', '')} depends on the size of the map")
    pads, found = attribute(node, "pads", (0, 0, 0, 0)), (_pair(node, "strides"), _pair(node, "dilations"))
    return Window(kernel, *found, (int(pads[0]), int(pads[1]), int(pads[2]), int(pads[3])))


def linear(weights: Weights, view: View) -> Weights:
    """``weights`` [out, features] for the map whose elements ``view`` flattens."""
    columns = view.columns()
    assert columns is not None
    shape = (len(weights.values), *view.value.shape)
    values = np.ascontiguousarray(weights.values[:, columns].reshape(shape))
    return Weights(values, weights.scale, weights.bias, weights.bits, weights.zero_point)


def per_channel(factor: Array, shift: Array) -> Weights:
    """``factor * x + shift``, both [channels], as a convolution of each channel alone."""
    factor, shift = np.broadcast_arrays(np.asarray(factor, np.float64), np.asarray(shift, np.float64))
    return Weights(np.ones((len(factor), 1, 1, 1), np.float32), factor, shift)


def channel_constant(node: ir.Node, constant: Array, view: View) -> Array:
    """float64 [channels]: a constant that is the same everywhere in a map; ValueError for others."""
    if view.map is not None:
        whole = np.broadcast_to(constant, (1, *view.shape)) if constant.ndim <= len(view.shape) + 1 else None
        if whole is not None and whole.shape == (1, *view.shape):
            rows = np.asarray(whole, np.float64).reshape(view.map[0], -1)
            if bool((rows == rows[:, :1]).all()):
                return rows[:, 0]
    raise of_node(node, f"its constant of shape {list(constant.shape)} is not one number per channel")


def _pair(node: ir.Node, name: str) -> tuple[int, int]:
    first, second = attribute(node, name, (1, 1))
    return int(first), int(second)


def _name(node: ir.Node, weight: Any) -> str:
    """That of the module, which the exporter keeps in the name of its weight."""
    name = str(getattr(weight, "name", None) or node.name)
    return name.removesuffix(".weight")


ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "PRelu", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh")


def activation_of(node: ir.Node) -> Activation:
    """The function of a node of :data:`ACTIVATIONS`; ValueError for parameters that it cannot have."""
    op = node.op_type
    ends = rectifier(node)
    if ends is not None:
        a, b = (None if np.isinf(end) else float(end) for end in ends)
        return Activation("clip", a, b)
    if op == "Clip":
        found = [None if value is None else constant_of(value) for value in (*node.inputs[1:], None, None)[:2]]
        if any(v is not None and f is None for v, f in zip(node.inputs[1:], found, strict=False)):
            raise of_node(node, "its ends are computed")
        return Activation("clip", *(None if end is None else float(end.reshape(())) for end in found))
    if op == "LeakyRelu":
        return Activation("leaky_relu", float(attribute(node, "alpha", 0.01)))
    if op == "PRelu":
        slope = constant_of(node.inputs[1])
        if slope is None or len(set(slope.reshape(-1).tolist())) != 1:
            raise of_node(node, "it has a slope for each channel")
        return Activation("leaky_relu", float(slope.reshape(-1)[0]))
    if op == "HardSigmoid":
        return Activation("hard_sigmoid", float(attribute(node, "alpha", 0.2)), float(attribute(node, "beta", 0.5)))
    return Activation({"HardSwish": "hard_swish", "Sigmoid": "sigmoid", "Tanh": "tanh"}[op])


_GLOBAL = {
    "GlobalAveragePool": AVERAGE_POOL,
    "GlobalMaxPool": MAX_POOL,
    "ReduceMean": AVERAGE_POOL,
    "ReduceMax": MAX_POOL,
}
MEANS = ("MaxPool", "AveragePool", *_GLOBAL)


def pooled(node: ir.Node, view: View, ready: Callable[[ir.Node, View], Value]) -> tuple[str, Value, Window, bool]:
    """The op of a pool, its input, its window, and whether padding counts as zeros."""
    op = node.op_type
    if op in _GLOBAL:
        value = ready(node, view)
        if op.startswith("Reduce") and _axes(node, len(view.shape)) != (2, 3):
            raise of_node(node, "it reduces other axes than rows and columns")
        return _GLOBAL[op], value, Window(value.shape[1:]), False
    if len(view.shape) != 3:
        raise of_node(node, f"it pools {list(view.shape)} of an image; expected channels, rows and columns")
    if len(node.outputs) > 1:
        raise of_node(node, "it gives indices too")
    rows, columns = attribute(node, "kernel_shape", ())
    window, average = window_of(node, (int(rows), int(columns))), op == "AveragePool"
    inner, around = view.unpadded()
    if average and around != (0, 0, 0, 0) and window.padding == (0, 0, 0, 0) and not attribute(node, "ceil_mode", 0):
        return AVERAGE_POOL, ready(node, inner), window.padded(around), True
    value = ready(node, view)
    counts = average and bool(attribute(node, "count_include_pad", 0)) and any(window.padding)
    wanted = image_shape(node, node.outputs[0])[1:]
    enlarged = _reaching(window, value.shape[1:], (wanted[0], wanted[1]))
    if counts and enlarged != window:
        raise of_node(node, "it counts padding, but not what ceil_mode adds to it")
    return AVERAGE_POOL if average else MAX_POOL, value, enlarged, counts


def _reaching(window: Window, size: tuple[int, int], wanted: tuple[int, int]) -> Window:
    """With as much padding below and to the right as the last window needs (ceil_mode)."""
    top, left, *ends = window.padding
    for axis, before in enumerate((top, left)):
        reach = (wanted[axis] - 1) * window.stride[axis] + window.dilation[axis] * (window.kernel[axis] - 1) + 1
        ends[axis] = max(ends[axis], reach - size[axis] - before)
    return replace(window, padding=(top, left, ends[0], ends[1]))


def _axes(node: ir.Node, rank: int) -> tuple[int, ...]:
    """Axes of a reduction, sorted; those of the image are 1, 2, 3."""
    given = node.inputs[1] if len(node.inputs) > 1 else None
    found = constant_of(given) if given is not None else attribute(node, "axes", None)
    if found is None:
        raise of_node(node, "its axes are computed, or all")
    return tuple(sorted(int(axis) % (rank + 1) for axis in found))
