"""The nodes of each ONNX form in place of the markers of a graph."""

from __future__ import annotations

from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

from hast_cuda.exports.dequantized import (
    clipped_quantizer,
    dequantized_layer,
    float_layer,
    quantize_after_pooling,
    quantized_pair,
)
from hast_cuda.exports.editing import Editor
from hast_cuda.exports.folded import Layer, is_marker, quantized_layers
from hast_cuda.exports.int8 import Int8Rewriter, Move
from hast_cuda.exports.integer import IntegerRewriter
from hast_cuda.exports.marked import INPUT, OUTPUT, QUANTIZE, MarkedModel

_INT8, _UINT8, _UINT4 = (np.dtype(kind) for kind in (np.int8, np.uint8, ml_dtypes.uint4))


@dataclass
class Rewritten:
    """What a form made of the layers."""

    weight_bits: float
    """Mean over the weights."""
    float_layers: dict[str, str] = field(default_factory=dict)
    """Layers that compute in float, and why."""
    rounded_layers: dict[str, str] = field(default_factory=dict)
    """Layers that round otherwise than the student, and why."""
    moves: dict[str, list[Move]] = field(default_factory=dict)
    """ "int8": biases that would prevent that, by parameter."""


def rewrite(marked: MarkedModel, form: str) -> Rewritten:
    """Replace every marker of the graph."""
    layers, outputs = quantized_layers(marked), [value.name or OUTPUT for value in marked.model.graph.outputs]
    small = [form == "uint4" and layer.codes.grid.bits <= 4 for layer in layers]
    if form == "uint4" and not any(small):
        raise ValueError('no weight has 4 bits or fewer: the form "uint4" has nothing to store; use "ort"')
    counts = [layer.codes.codes.numel() for layer in layers]
    stored = sum(n * (4 if narrow else 8) for n, narrow in zip(counts, small, strict=True))
    done, editor = Rewritten(stored / max(sum(counts), 1)), Editor(marked.model)
    if form == "ort":
        exact = IntegerRewriter(editor, marked.activations, {layer.node: layer for layer in layers})
        exact.rewrite()
        done.float_layers = exact.reasons
    elif form == "int8":
        integer = Int8Rewriter(editor, marked.activations, {layer.node: layer for layer in layers})
        integer.rewrite()
        done.rounded_layers, done.moves = integer.rounded, integer.moves
    elif form == "qdq":
        done.rounded_layers = _pairs(marked, editor, layers)
    else:
        _float_layers(marked, editor, layers, small)
    editor.finish([INPUT], outputs)
    return done


def _pairs(marked: MarkedModel, editor: Editor, layers: list[Layer]) -> dict[str, str]:
    rounded = {layer.name: dequantized_layer(editor, layer) for layer in layers}
    for node in [n for n in marked.model.graph if is_marker(n, QUANTIZE)]:
        quantized_pair(editor, node, marked.activations[node.attributes["name"].value])
    return {name: why for name, why in rounded.items() if why}


def _float_layers(marked: MarkedModel, editor: Editor, layers: list[Layer], small: list[bool]) -> None:
    """Forms "portable" and, where some layer is ``small``, "uint4"."""
    unsigned = any(small)
    for layer, narrow in zip(layers, small, strict=True):
        float_layer(editor, layer, _UINT4 if narrow else _UINT8 if unsigned else _INT8)
    for node in [n for n in marked.model.graph if is_marker(n, QUANTIZE)]:
        affine = marked.activations[node.attributes["name"].value]
        narrow = unsigned and affine.bits <= 4
        for marker in quantize_after_pooling(editor, node) if narrow else [node]:
            clipped_quantizer(editor, marker, affine, _UINT4 if narrow else _INT8)
