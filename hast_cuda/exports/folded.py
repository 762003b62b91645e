"""Quantized layers of an ONNX graph, with the BatchNorm behind them taken in.

``s' = s * gamma / sqrt(var + eps)`` per output channel: the integers stay, only the scale changes
(and the sign where gamma is negative), so nothing is rounded again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hast_cuda.exports.editing import Array, attribute, constant_of, only_consumer
from hast_cuda.exports.grid import WeightCodes
from hast_cuda.exports.marked import DOMAIN, WEIGHT, MarkedModel


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer with a quantized weight, as ``multiplier * (W x) + bias``."""

    name: str
    node: ir.Node
    """Conv or Gemm; or, for a weight that is used in another way, its marker."""
    codes: WeightCodes
    multiplier: Array
    """float64 [out]: what BatchNorm does to the scale of each channel; ones without BatchNorm."""
    bias: Array | None
    """float64 [out]; None without bias and BatchNorm."""
    output: ir.Value
    """What the layer gives, BatchNorm included."""

    @property
    def plain(self) -> bool:
        """The weight goes into a Conv or Gemm, and nowhere else."""
        return self.node.op_type in ("Conv", "Gemm")


def quantized_layers(marked: MarkedModel) -> list[Layer]:
    """Every quantized layer in the order of execution."""
    return [
        _layer(node, marked.weights[attribute(node, "name", "")])
        for node in marked.model.graph
        if node.domain == DOMAIN and node.op_type == WEIGHT
    ]


def _layer(marker: ir.Node, codes: WeightCodes) -> Layer:
    name, value = attribute(marker, "name", ""), marker.outputs[0]
    ones = np.ones(len(codes.codes))
    node = only_consumer(value)
    if node is None or not _plain(node, value):
        return Layer(name, marker, codes, ones, None, value)
    bias = None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        constant = constant_of(node.inputs[2])
        if constant is None:
            return Layer(name, marker, codes, ones, None, value)
        bias = constant.astype(np.float64)
    output = node.outputs[0]
    norm = only_consumer(output)
    if node.op_type == "Conv" and norm is not None and norm.op_type == "BatchNormalization":
        parameters = [constant_of(p) for p in norm.inputs[1:5]]
        if all(p is not None for p in parameters):
            gamma, beta, mean, variance = (np.asarray(p, np.float64) for p in parameters)
            scale = gamma / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
            shifted = (0.0 if bias is None else bias) - mean
            return Layer(name, node, codes, scale, shifted * scale + beta, norm.outputs[0])
    return Layer(name, node, codes, ones, bias, output)


def _plain(node: ir.Node, weight: ir.Value) -> bool:
    """The weight is the second operand of a convolution, or of a linear layer as torch has it."""
    if len(node.inputs) < 2 or node.inputs[1] is not weight:
        return False
    if node.op_type == "Conv":
        return True
    return (
        node.op_type == "Gemm"
        and attribute(node, "transB", 0) == 1
        and attribute(node, "transA", 0) == 0
        and attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0
    )
