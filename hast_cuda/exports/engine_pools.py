"""Pooling nodes as windows of the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import onnx_ir as ir

from hast_cuda.exports.editing import attribute, constant_of
from hast_cuda.exports.engine_layers import window_of
from hast_cuda.exports.engine_steps import AVERAGE_POOL, MAX_POOL, Value, Window, of_node
from hast_cuda.exports.engine_views import View, image_shape

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
