"""Reshapes, slices and permutations, followed element by element instead of executed.

A view says for each of its elements which element of a value it is. What is left of a chain of such
operations, where a step needs an array of channels, rows and columns, is nothing or one gather.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hast_cuda.exports.editing import Array, attribute, constant_of
from hast_cuda.exports.engine_steps import Value, of_node

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Cast")
LAYOUTS = (*_RESHAPES, "Transpose", "Slice", "Split", "Pad", "Gather", "Expand")


@dataclass(frozen=True)
class View:
    """Elements of ``value`` in another order and shape."""

    value: Value
    shape: tuple[int, ...]  # of one image
    index: Array | None = None
    """int64 of that shape: places in the flattened value, -1 for a zero; None: all in order."""

    def places(self) -> Array:
        """``index``, also where that is None."""
        return np.arange(math.prod(self.shape)).reshape(self.shape) if self.index is None else self.index

    def moved(self, places: Array) -> View:
        """Another view of the same value."""
        count = math.prod(self.value.shape)
        plain = places.size == count and bool((places.reshape(-1) == np.arange(count)).all())
        return View(self.value, places.shape, None if plain else places)

    @property
    def map(self) -> tuple[int, int, int] | None:
        """The shape as channels, rows and columns; None of any other rank."""
        shape = (*self.shape, 1, 1) if len(self.shape) == 1 else self.shape
        return (shape[0], shape[1], shape[2]) if len(shape) == 3 else None

    @property
    def whole(self) -> bool:
        """Nothing has to be done to have it."""
        return self.index is None and self.map == self.value.shape

    def columns(self) -> Array | None:
        """Where each element of the value is in the view, int64; None unless each is once."""
        flat = self.places().reshape(-1)
        if flat.size != math.prod(self.value.shape) or not bool((np.sort(flat) == np.arange(flat.size)).all()):
            return None
        return np.argsort(flat)

    def gathered(self) -> tuple[tuple[int, ...], tuple[int, int]] | None:
        """Channels (-1: zeros) and stride that give the view; None if no gather does."""
        if self.map is None:
            return None
        places, (_, rows, columns) = self.places().reshape(self.map), self.value.shape
        first = places[:, 0, 0]
        channels = np.where(first < 0, -1, first // (rows * columns))
        some = np.flatnonzero(first >= 0)
        if not len(some):
            return None
        one = places[some[0]]
        down = int(one[1, 0] - one[0, 0]) // columns if one.shape[0] > 1 else rows
        right = int(one[0, 1] - one[0, 0]) if one.shape[1] > 1 else columns
        if down < 1 or right < 1:
            return None
        every = np.arange(rows * columns).reshape(rows, columns)[::down, ::right]
        if every.shape != one.shape:
            return None
        expected = np.where(channels[:, None, None] < 0, -1, channels[:, None, None] * rows * columns + every)
        return (tuple(map(int, channels)), (down, right)) if bool((expected == places).all()) else None

    def padded(self, around: tuple[int, int, int, int]) -> View:
        """With rows and columns of zeros around it: top, left, bottom, right."""
        if not any(around):
            return self
        top, left, bottom, right = around
        return self.moved(np.pad(self.places(), ((0, 0), (top, bottom), (left, right)), constant_values=-1))

    def unpadded(self) -> tuple[View, tuple[int, int, int, int]]:
        """Without rows and columns of zeros around it, and how many those are."""
        if self.index is None or self.map is None:
            return self, (0, 0, 0, 0)
        filled = self.index.reshape(self.map) >= 0
        rows, columns = (np.flatnonzero(filled.any(axis=axes)) for axes in ((0, 2), (0, 1)))
        if not len(rows):
            return self, (0, 0, 0, 0)
        (top, low), (left, far) = (rows[0], rows[-1] + 1), (columns[0], columns[-1] + 1)
        inner = self.moved(self.index.reshape(self.map)[:, top:low, left:far])
        around = (int(top), int(left), filled.shape[1] - int(low), filled.shape[2] - int(far))
        return inner, around


def image_shape(node: ir.Node, value: ir.Value | None) -> tuple[int, ...]:
    """Shape of one image's part; ValueError unless the first axis is that of the images."""
    sizes = [] if value is None or value.shape is None else list(value.shape)
    if not sizes or isinstance(sizes[0], int) or not all(isinstance(n, int) for n in sizes[1:]):
        raise of_node(node, f"its shape {sizes} is not [images, sizes that are known]")
    return tuple(int(n) for n in sizes[1:])  # type: ignore[arg-type]


def laid_out(node: ir.Node, view: View) -> list[View]:
    """The views that a node of :data:`LAYOUTS` makes."""
    places, op = view.places(), node.op_type
    if op == "Split":
        return _split(node, view, places)
    shape = image_shape(node, node.outputs[0])
    if op in _RESHAPES:
        if op == "Cast" and node.inputs[0] is not None and node.inputs[0].dtype != node.outputs[0].dtype:
            raise of_node(node, f"it makes {node.outputs[0].dtype} of {node.inputs[0].dtype}")
        if math.prod(shape) != places.size:
            raise of_node(node, "it mixes images of a batch")
        return [View(view.value, shape, None if view.index is None else places.reshape(shape))]
    if op == "Transpose":
        order = attribute(node, "perm", tuple(reversed(range(places.ndim + 1))))
        if order[0] != 0:
            raise of_node(node, "it moves the axis of the images")
        return [view.moved(places.transpose([axis - 1 for axis in order[1:]]))]
    if op == "Slice":
        return [view.moved(_sliced(node, places))]
    if op == "Pad":
        return [view.moved(_padded(node, places))]
    if op == "Gather":
        chosen, axis = constant_of(node.inputs[1]), _axis(node, attribute(node, "axis", 0), places.ndim)
        if chosen is None:
            raise of_node(node, "its indices are computed")
        return [view.moved(np.take(places, chosen, axis))]
    return [view.moved(np.array(np.broadcast_to(places, shape)))]  # Expand


def _axis(node: ir.Node, axis: int, dimensions: int) -> int:
    """An axis of the graph as one of a single image."""
    axis = axis + dimensions + 1 if axis < 0 else axis
    if axis == 0:
        raise of_node(node, "it works along the axis of the images")
    return axis - 1


def _split(node: ir.Node, view: View, places: Array) -> list[View]:
    axis = _axis(node, attribute(node, "axis", 0), places.ndim)
    sizes = [image_shape(node, output)[axis] for output in node.outputs]
    return [view.moved(part) for part in np.split(places, np.cumsum(sizes)[:-1], axis)]


def _constants(node: ir.Node, first: int) -> list[Array | None]:
    """Constant inputs from number ``first`` on; None for those that are not given."""
    found = [None if value is None else constant_of(value) for value in node.inputs[first:]]
    if any(v is not None and f is None for v, f in zip(node.inputs[first:], found, strict=True)):
        raise of_node(node, "its parameters are computed")
    return found


def _sliced(node: ir.Node, places: Array) -> Array:
    starts, ends, axes, steps = (*_constants(node, 1), None, None)[:4]
    assert starts is not None
    assert ends is not None
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = int(number if axes is None else axes[number])
        step = 1 if steps is None else int(steps[number])
        if step < 1:
            raise of_node(node, "it turns an axis round")
        place = _axis(node, axis, places.ndim)
        places = places[(*[slice(None)] * place, slice(int(start), int(end), step))]
    return places


def _padded(node: ir.Node, places: Array) -> Array:
    pads, value, axes = (*_constants(node, 1), None, None)[:3]
    assert pads is not None
    if attribute(node, "mode", "constant") != "constant" or (value is not None and float(value.reshape(())) != 0):
        raise of_node(node, "only zeros can be put around a map")
    chosen = range(places.ndim + 1) if axes is None else [int(axis) for axis in axes]
    widths = [(0, 0)] * (places.ndim + 1)
    for number, axis in enumerate(chosen):
        widths[axis] = (int(pads[number]), int(pads[number + len(pads) // 2]))
    if widths[0] != (0, 0) or min(min(pair) for pair in widths) < 0:
        raise of_node(node, "it puts images around others, or cuts some off")
    return np.pad(places, widths[1:], constant_values=-1)
