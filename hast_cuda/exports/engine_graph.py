"""The marked graph of a student as simple steps of the engine, about one for each node."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from hast_cuda.exports.editing import Array, attribute, constant_of
from hast_cuda.exports.engine_layers import (
    ACTIVATIONS,
    MEANS,
    activation_of,
    channel_constant,
    layer_of,
    linear,
    per_channel,
    pooled,
    users_of_marker,
    window_of,
)
from hast_cuda.exports.engine_steps import (
    ADD,
    CONCATENATE,
    CONVERT,
    CONVOLUTION,
    GATHER,
    MULTIPLY,
    Activation,
    Plan,
    Shape,
    Step,
    Value,
    Window,
    of_node,
    refusal,
)
from hast_cuda.exports.engine_views import LAYOUTS, View, image_shape, laid_out
from hast_cuda.exports.folded import batch_norm, is_marker
from hast_cuda.exports.grid import Affine
from hast_cuda.exports.marked import INPUT, QUANTIZE, WEIGHT, MarkedModel

_SUMS = ("Add", "Sub", "Mul", "Div")
_LARGEST_ZERO_POINT = 2**24  # codes less their zero point are exact in float32
_SMALLEST_STEP = float(np.finfo(np.float32).tiny)  # its reciprocal is finite
_LARGEST_FLOAT = float(np.finfo(np.float32).max)


@dataclass
class GraphReader:
    """Makes a plan in which nothing is fused yet."""

    marked: MarkedModel
    shape: Shape
    steps: list[Step] = field(default_factory=list)
    views: dict[ir.Value, View] = field(default_factory=dict)

    def read(self) -> Plan:
        """The plan; ValueError naming what the engine does not have."""
        graph = self.marked.model.graph
        if len(graph.outputs) != 1:
            raise ValueError(f"the network gives {len(graph.outputs)} tensors; the engine gives [images, classes]")
        images, logits = Value(INPUT, self.shape), graph.outputs[0]
        self.views[graph.inputs[0]] = View(images, self.shape)
        needed = _needed(logits)
        for node in graph:
            if is_marker(node, WEIGHT):
                users_of_marker(node)
            elif node in needed:
                self._node(node)
        found = self.views[logits]
        if not found.shape or found.map != (found.shape[0], 1, 1):
            raise ValueError(f"the network gives {['images', *found.shape]}; the engine gives [images, classes]")
        producer = logits.producer()
        assert producer is not None
        return Plan(images, self._value(producer, logits), self.steps)

    def _node(self, node: ir.Node) -> None:
        op = node.op_type
        if is_marker(node, QUANTIZE):
            self._quantizer(node)
        elif node.domain:
            raise of_node(node, f"it is of the domain {node.domain!r}")
        elif op in LAYOUTS:
            self.views.update(zip(node.outputs, laid_out(node, self._view(node, 0)), strict=True))
        elif op in ("Conv", "Gemm", "MatMul"):
            (self._convolution if op == "Conv" else self._linear)(node)
        elif op == "BatchNormalization":
            found = batch_norm(node)
            if found is None:
                raise of_node(node, "its parameters are computed")
            self._affine(node, node.inputs[0], *found)
        elif op in ACTIVATIONS:
            self._elementwise(node, activation_of(node))
        elif op in _SUMS:
            self._sum(node)
        elif op in MEANS:
            kind, value, window, counts = pooled(node, self._view(node, 0), self._ready)
            output = self._output(node)
            self._add(node, Step(kind, output.name, [value], output, window=window, count_padding=counts))
        elif op == "Concat":
            self._concatenation(node)
        else:
            raise of_node(node, "it has no such operation")

    # ---- What nodes read and write ---------------------------------------------------------

    def _view(self, node: ir.Node, index: int) -> View:
        found = node.inputs[index]
        if found is None or found not in self.views:
            raise of_node(node, f"its input {index} is a constant or computed from sizes")
        return self.views[found]

    def _value(self, node: ir.Node, source: ir.Value | None) -> Value:
        """``source`` as channels, rows and columns; a gather makes it if it must."""
        assert source is not None
        view = self.views.get(source)
        if view is None:
            raise of_node(node, f"its input {source.name!r} is a constant or computed from sizes")
        made = self._ready(node, view, source.name or "")
        self.views[source] = View(made, view.shape)
        return made

    def _ready(self, node: ir.Node, view: View, name: str = "") -> Value:
        if view.whole:
            return view.value
        found = view.gathered()
        if found is None or view.map is None:
            raise of_node(
                node, f"its input {list(view.shape)} is an order of elements that no gather of channels gives"
            )
        channels, stride = found
        made = Value(name or f"{view.value.name}.gathered", view.map)
        self.steps.append(Step(GATHER, made.name, [view.value], made, window=Window((1, 1), stride), channels=channels))
        return made

    def _output(self, node: ir.Node, name: str = "") -> Value:
        shape = image_shape(node, node.outputs[0])
        found = View(Value("", (0, 0, 0)), shape).map
        if found is None:
            raise of_node(node, f"it makes {list(shape)} of an image; expected channels, rows and columns")
        return Value(name or node.outputs[0].name or node.op_type, found)

    def _add(self, node: ir.Node, step: Step) -> None:
        """``step`` makes the node's output."""
        if step.window is not None:
            found, expected = step.window.size(*step.inputs[0].shape[1:]), step.output.shape[1:]
            if found != expected:
                raise of_node(node, f"its windows give {list(found)}, not {list(expected)}")
        self.steps.append(step)
        self.views[node.outputs[0]] = View(step.output, image_shape(node, node.outputs[0]))

    # ---- Nodes ------------------------------------------------------------------------------

    def _quantizer(self, node: ir.Node) -> None:
        name = str(attribute(node, "name", ""))
        grid = self.marked.activations[name]
        if abs(grid.zero_point) > _LARGEST_ZERO_POINT:
            raise refusal("layer", name, "quantizer", "its range lies too far from 0 for its width")
        farthest = grid.step * (abs(grid.zero_point) + grid.largest)
        if grid.step < _SMALLEST_STEP or farthest > _LARGEST_FLOAT:
            raise refusal("layer", name, "quantizer", f"its step {grid.step} is too small or too large")
        self._elementwise(node, None, grid, name)

    def _elementwise(
        self, node: ir.Node, activation: Activation | None, grid: Affine | None = None, name: str = ""
    ) -> None:
        """A function of single numbers: in whatever shape and order they are, if none is missing."""
        view, around = self._view(node, 0), (0, 0, 0, 0)
        if view.index is not None and view.gathered() is not None:
            view = View(self._value(node, node.inputs[0]), view.shape)
        elif view.index is not None and view.columns() is None:
            inner, around = view.unpadded()
            zero = (activation is None or activation.keeps_zero) and (grid is None or grid.contains_zero)
            if not zero and any(around):
                raise of_node(node, "it makes something else of the zeros around its input")
            made = self._ready(node, inner if any(around) else view)
            view = View(made, made.shape)
        name = name or node.outputs[0].name or ""
        output = Value(name, view.value.shape, grid)
        self.steps.append(Step(CONVERT, name, [view.value], output, activation))
        self.views[node.outputs[0]] = View(output, view.shape, view.index).padded(around)

    def _convolution(self, node: ir.Node) -> None:
        name, weights = layer_of(self.marked, node)
        if weights.values.ndim != 4:
            raise refusal("layer", name, "Conv", f"it has {weights.values.ndim - 2} dimensions; expected 2")
        inner, around = self._view(node, 0).unpadded()
        source = self._value(node, node.inputs[0]) if around == (0, 0, 0, 0) else self._ready(node, inner)
        window = window_of(node, weights.values.shape[2:]).padded(around)
        groups, output = int(attribute(node, "group", 1)), self._output(node, name)
        self._add(node, Step(CONVOLUTION, name, [source], output, window=window, groups=groups, weights=weights))

    def _linear(self, node: ir.Node) -> None:
        name, weights = layer_of(self.marked, node)
        view = self._view(node, 0)
        if len(view.shape) != 1:
            raise refusal("layer", name, node.op_type, f"it reads {list(view.shape)} of an image; expected features")
        if view.columns() is None:
            view = View(self._value(node, node.inputs[0]), view.shape)
        window, output = Window((view.value.shape[1], view.value.shape[2])), self._output(node, name)
        self._add(node, Step(CONVOLUTION, name, [view.value], output, window=window, weights=linear(weights, view)))

    def _affine(self, node: ir.Node, source: ir.Value | None, factor: Array, shift: Array) -> None:
        value, output, window = self._value(node, source), self._output(node), Window((1, 1))
        weights, groups = per_channel(factor, shift), output.shape[0]
        self._add(node, Step(CONVOLUTION, output.name, [value], output, window=window, groups=groups, weights=weights))

    def _sum(self, node: ir.Node) -> None:
        first, second = node.inputs[:2]
        constants = [constant_of(value) for value in (first, second)]
        if constants[0] is None and constants[1] is None:
            self._of_two(node)
            return
        place = 0 if constants[1] is not None else 1
        view = self._view(node, place)
        number = channel_constant(node, constants[1 - place], view)  # type: ignore[arg-type]
        if len(number) != self._output(node).shape[0] or image_shape(node, node.outputs[0]) != view.shape:
            raise of_node(node, "its constant is larger than the map")
        one, none, op = np.ones_like(number), np.zeros_like(number), node.op_type
        if op == "Div" and place == 1:
            raise of_node(node, "it divides a constant by a map")
        if op == "Div" and not bool(number.all()):
            raise of_node(node, "it divides by 0")
        if op in ("Mul", "Div"):
            factor, shift = number if op == "Mul" else 1 / number, none
        elif op == "Sub":
            factor, shift = (one, -number) if place == 0 else (-one, number)
        else:
            factor, shift = one, number
        self._affine(node, node.inputs[place], factor, shift)

    def _of_two(self, node: ir.Node) -> None:
        op, views = node.op_type, [self._view(node, 0), self._view(node, 1)]
        if op in ("Sub", "Div"):
            raise of_node(node, "it takes two maps, of which it can only make sums and products")
        shape = image_shape(node, node.outputs[0])
        if op == "Mul" and self._silu(node):
            return
        whole = 0 if views[0].shape == shape else 1
        a, b = self._value(node, node.inputs[whole]), self._narrow(node, node.inputs[1 - whole])
        if a.shape != self._output(node).shape or b.shape not in (a.shape, (a.shape[0], 1, 1)):
            raise of_node(node, f"it takes {list(a.shape)} and {list(b.shape)}; expected equal shapes, or [C, 1, 1]")
        output = self._output(node)
        self._add(node, Step(ADD if op == "Add" else MULTIPLY, output.name, [a, b], output))

    def _narrow(self, node: ir.Node, source: ir.Value | None) -> Value:
        """An operand; of one that repeats a number per channel, those numbers."""
        view = self.views.get(source) if source is not None else None
        if view is not None and view.index is not None and view.map is not None:
            places = view.index.reshape(view.map)
            if bool((places == places[:, :1, :1]).all()):
                return self._ready(node, view.moved(places[:, :1, :1]))
        return self._value(node, source)

    def _silu(self, node: ir.Node) -> bool:
        """``x * sigmoid(x)`` as one activation."""
        for x, gate in (node.inputs[:2], node.inputs[1::-1]):
            producer = None if gate is None else gate.producer()
            if producer is not None and producer.op_type == "Sigmoid" and producer.inputs[0] is x:
                view = self.views[x]  # type: ignore[index]
                name = node.outputs[0].name or ""
                output = Value(name, view.value.shape)
                self.steps.append(Step(CONVERT, name, [view.value], output, Activation("silu")))
                self.views[node.outputs[0]] = View(output, view.shape, view.index)
                return True
        return False

    def _concatenation(self, node: ir.Node) -> None:
        shape, axis = image_shape(node, node.outputs[0]), attribute(node, "axis", 1)
        if axis not in (1, -len(shape)):
            raise of_node(node, f"it joins along axis {axis}, not along channels")
        output, parts = self._output(node), [self._value(node, value) for value in node.inputs]
        self._add(node, Step(CONCATENATE, output.name, parts, output))


def _needed(logits: ir.Value) -> set[ir.Node]:
    """Nodes that compute maps that the output depends on, without those that compute sizes."""
    found: set[ir.Node] = set()
    open_values: list[ir.Value | None] = [logits]
    while open_values:
        value = open_values.pop()
        node = None if value is None else value.producer()
        if node is None or node in found or constant_of(value) is not None:
            continue
        found.add(node)
        everything = node.op_type in (*_SUMS, "Concat") or node.op_type not in _KNOWN
        open_values += node.inputs if everything else node.inputs[:1]
    return found


_KNOWN = (*LAYOUTS, *ACTIVATIONS, *MEANS, "Conv", "Gemm", "MatMul", "BatchNormalization", QUANTIZE)
