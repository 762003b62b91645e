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
    node: ir.Node  # conv or Gemm; or, for a weight that is used in another way, its marker
    codes: WeightCodes
    multiplier: Array
    """float64 [out]: what BatchNorm does to the scale of each channel; ones without BatchNorm."""
    bias: Array | None  # float64 [out]; None without bias and BatchNorm
    output: ir.Value  # what the layer gives, BatchNorm included
    bias_name: str = ""
    """The network's parameter that is added to the layer's output as it is; empty: there is none."""

    @property
    def plain(self) -> bool:
        """The weight goes into a Conv or Gemm, and nowhere else."""
        return self.node.op_type in ("Conv", "Gemm")

    def column(self, values: Array) -> Array:
        """[out] as [out, 1, ...]."""
        return values.reshape(-1, *[1] * (self.codes.codes.dim() - 1))

    def signed_codes(self) -> tuple[Array, Array]:
        """Integers with zero point 0 (int64) and their scale (float64 [out]), BatchNorm included.

        A negative multiplier turns the integers' sign: scales are positive.
        """
        grid = self.codes.grid
        centred = self.codes.codes.long().numpy() - self.column(grid.zero_point.numpy())
        sign = np.where(self.multiplier < 0, -1, 1)
        return centred * self.column(sign), grid.step.double().numpy() * np.abs(self.multiplier)

    def flipped(self) -> tuple[Array, Array]:
        """Codes and zero points with the same scale: a negative multiplier mirrors the codes."""
        largest, negative = 2**self.codes.grid.bits - 1, self.multiplier < 0
        codes, zero_point = self.codes.codes.long().numpy(), self.codes.grid.zero_point.numpy()
        return (
            np.where(self.column(negative), largest - codes, codes),
            np.where(negative, largest - zero_point, zero_point),
        )


def is_marker(node: ir.Node | None, kind: str) -> bool:
    """``node`` stands for a quantized weight (``WEIGHT``) or an activation (``QUANTIZE``)."""
    return node is not None and (node.domain, node.op_type) == (DOMAIN, kind)


def quantized_layers(marked: MarkedModel) -> list[Layer]:
    """Every quantized layer in the order of execution."""
    return [
        _layer(node, marked.weights[attribute(node, "name", "")])
        for node in marked.model.graph
        if is_marker(node, WEIGHT)
    ]


def _layer(marker: ir.Node, codes: WeightCodes) -> Layer:
    name, value = attribute(marker, "name", ""), marker.outputs[0]
    ones, node = np.ones(len(codes.codes)), only_consumer(value)
    given = None if node is None or len(node.inputs) < 3 else node.inputs[2]
    bias = constant_of(given)
    if node is None or not _plain(node, value) or (given is not None and bias is None):
        return Layer(name, marker, codes, ones, None, value)
    bias = None if bias is None else bias.astype(np.float64)
    norm = only_consumer(node.outputs[0])
    found = None if norm is None or node.op_type != "Conv" else batch_norm(norm)
    if norm is not None and found is not None:
        scale, shift = found
        bias = shift if bias is None else bias * scale + shift
        return Layer(name, node, codes, scale, bias, norm.outputs[0], shift_name(norm))
    return Layer(name, node, codes, ones, bias, node.outputs[0], f"{name}.bias" if given is not None else "")


def batch_norm(node: ir.Node) -> tuple[Array, Array] | None:
    """``scale`` and ``shift``, float64 [channels], of a BatchNorm with constant parameters."""
    parameters = [constant_of(p) for p in node.inputs[1:5]]
    if node.op_type != "BatchNormalization" or any(p is None for p in parameters):
        return None
    gamma, beta, mean, variance = (np.asarray(p, np.float64) for p in parameters)
    scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    return scale, beta - mean * scale


def shift_name(norm: ir.Node) -> str:
    """The parameter that a BatchNorm adds."""
    beta = norm.inputs[2]
    return "" if beta is None else beta.name or ""


def _plain(node: ir.Node, weight: ir.Value) -> bool:
    """The weight is the second operand of a convolution, or of a linear layer as torch has it."""
    if len(node.inputs) < 2 or node.inputs[1] is not weight:
        return False
    attributes = (("transB", 0, 1), ("transA", 0, 0), ("alpha", 1.0, 1.0), ("beta", 1.0, 1.0))
    return node.op_type == "Conv" or (
        node.op_type == "Gemm" and all(attribute(node, n, d) == v for n, d, v in attributes)
    )
