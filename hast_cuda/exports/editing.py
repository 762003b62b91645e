"""Small edits of an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

Array = np.ndarray[Any, Any]


class Editor:
    """Puts nodes and constants into the main graph of a model."""

    def __init__(self, model: ir.Model) -> None:
        self.model, self.graph = model, model.graph
        self._names = {v.name for node in self.graph for v in node.outputs}
        self._names |= set(self.graph.initializers) | {v.name for v in self.graph.inputs}

    def constant(self, array: Array, name: str) -> ir.Value:
        """An initializer."""
        name = self._free(name)
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        value.type = ir.TensorType(value.const_value.dtype)  # type: ignore[union-attr]
        value.shape = ir.Shape(array.shape)
        self.graph.register_initializer(value)
        return value

    def before(
        self,
        place: ir.Node,
        op: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        name: str,
        domain: str = "",
    ) -> ir.Value:
        """A node with one output in front of ``place``; gives its output."""
        name = self._free(name)
        output = ir.Value(name=name)
        node = ir.node(op, inputs, attributes, domain=domain, outputs=[output], name=name)
        self.graph.insert_before(place, node)
        return output

    def like(self, place: ir.Node, source: ir.Node, inputs: Sequence[ir.Value | None], *, name: str) -> ir.Value:
        """The operation of ``source`` on other inputs."""
        attributes, op = attributes_of(source), source.op_type
        return self.before(place, op, inputs, attributes, name=name, domain=source.domain)

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Every user of ``old`` gets ``new``, the graph's output included."""
        new.type, new.shape = old.type, old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)

    def finish(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Drop what nothing uses, sort, and name what the graph takes and gives."""
        for step in (
            passes.RemoveUnusedNodesPass(),
            passes.RemoveUnusedOpsetsPass(),
            passes.DeduplicateInitializersPass(),
            passes.TopologicalSortPass(),
            passes.ClearMetadataAndDocStringPass(),  # the exporter's stack traces, with file names
        ):
            step(self.model)
        values = (*self.graph.inputs, *self.graph.outputs)
        for name, value in zip((*inputs, *outputs), values, strict=True):
            value.name = name

    def _free(self, name: str) -> str:
        chosen, number = name, 1
        while chosen in self._names:
            number += 1
            chosen = f"{name}_{number}"
        self._names.add(chosen)
        return chosen


def constant_of(value: ir.Value | None) -> Array | None:
    """The numbers of a constant; None for anything else."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def attributes_of(node: ir.Node) -> dict[str, Any]:
    """All of them, to give to another node."""
    return {key: found.value for key, found in node.attributes.items()}


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """Value of an attribute, or ``default``."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def only_consumer(value: ir.Value) -> ir.Node | None:
    """The node that alone uses ``value``, once; None if the graph gives it to the outside."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None
