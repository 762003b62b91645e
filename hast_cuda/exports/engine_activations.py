"""Activation nodes as functions of the engine."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hast_cuda.exports.dequantized import rectifier
from hast_cuda.exports.editing import attribute, constant_of
from hast_cuda.exports.engine_steps import Activation, of_node

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
