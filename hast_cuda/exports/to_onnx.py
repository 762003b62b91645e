"""ONNX files of a quantized network, in three forms for different runtimes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_path, check_choice, check_image_size, check_values
from hast_cuda.exports.grid import float_bytes
from hast_cuda.exports.marked import (
    DOMAIN,
    INPUT,
    OUTPUT,
    QUANTIZE,
    MarkedModel,
    mark,
    require_onnx,
)
from hast_cuda.files.whole import replace_file

FORMS = ("ort", "portable", "uint4")
_OPSET = {"ort": 18, "portable": 18, "uint4": 21}
_IR_VERSION = {"ort": 8, "portable": 8, "uint4": 10}


@dataclass(frozen=True)
class OnnxInfo:
    """What was written."""

    file: Path
    """Where it is."""
    bytes: int
    """Of the file."""
    float_bytes: int
    """Of the network's parameters as float32."""
    weight_bits: float
    """Bits that the file's integers need per quantized weight, scales not counted."""
    nodes: dict[str, int]
    """How many operators of each kind."""
    integer_layers: int
    """Layers whose products are integers in the graph itself."""
    float_layers: dict[str, str] = field(default_factory=dict)
    """"ort": layers that compute in float, and why."""


@typed
def save_onnx(
    student: nn.Module, path: Path | str, shape: tuple[int, int, int], *, form: str = "ort",
    describe: Mapping[str, Any] | None = None,
) -> OnnxInfo:  # fmt: skip
    """Write ``student`` as an ONNX file with input "images" [N, C, H, W] and output "logits".

    BatchNorm behind a convolution is taken into its scales, which rounds nothing again.

    Args:
        student: calibrated, from :func:`hast_cuda.quantize` or a run; never edited.
        path: file to write, whole or not at all.
        shape: (C, H, W) of normalised images.
        form: "ort": integer convolutions for onnxruntime; "portable": int8 with zero point 0
            everywhere, between float operations (the form TensorRT asks for); "uint4": 4-bit codes
            with zero points, the smallest file (opset 21).
        describe: more entries for the file's metadata.

    Raises:
        ImportError: packages of the extra "export" are missing. ValueError: unknown form, a network
            that cannot be exported (named), before anything is written.
    """
    check_choice("form", form, FORMS)
    check_image_size("shape", shape)
    check_values("student", student)
    path = as_path("path", path)
    require_onnx()
    import onnx  # noqa: PLC0415 - an optional package
    import onnx_ir as ir  # noqa: PLC0415

    marked = mark(student, shape, _OPSET[form])
    reasons, bits = _rewrite(marked, form)
    model = marked.model
    model.ir_version = _IR_VERSION[form]
    model.producer_name = "hast_cuda"
    model.metadata_props.update(
        {"hast_cuda.form": form, **{str(k): str(v) for k, v in (describe or {}).items()}}
    )
    proto = ir.serde.serialize_model(model)
    onnx.checker.check_model(proto, full_check=True)
    with replace_file(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
    nodes = Counter(node.op_type for node in model.graph)
    integer = sum(nodes[op] for op in ("QLinearConv", "ConvInteger", "MatMulInteger"))
    return OnnxInfo(
        path, path.stat().st_size, float_bytes(student), bits, dict(nodes), integer, reasons
    )


def _rewrite(marked: MarkedModel, form: str) -> tuple[dict[str, str], float]:
    """Replace every marker; gives the layers that stay float and the mean bits per weight."""
    import ml_dtypes  # noqa: PLC0415 - they come with the optional packages

    from hast_cuda.exports.dequantized import clipped_quantizer, float_layer, quantize_after_pooling  # noqa: PLC0415
    from hast_cuda.exports.editing import Editor, attribute  # noqa: PLC0415
    from hast_cuda.exports.folded import quantized_layers  # noqa: PLC0415
    from hast_cuda.exports.integer import IntegerRewriter  # noqa: PLC0415
    from hast_cuda.exports.stored import as_codes, as_int8  # noqa: PLC0415

    uint4: np.dtype[np.generic] = np.dtype(ml_dtypes.uint4)
    wide: np.dtype[np.generic] = np.dtype(np.uint8)
    layers = quantized_layers(marked)
    small = [layer.codes.grid.bits <= 4 for layer in layers]
    if form == "uint4" and not any(small):
        message = 'no weight has 4 bits or fewer: the form "uint4" has nothing to store; use "ort"'
        raise ValueError(message)
    editor, reasons = Editor(marked.model), {}
    if form == "ort":
        rewriter = IntegerRewriter(
            editor, marked.activations, {layer.node: layer for layer in layers}
        )
        rewriter.rewrite()
        reasons = rewriter.reasons
    else:
        for layer, narrow in zip(layers, small, strict=True):
            kind = uint4 if narrow else wide
            float_layer(editor, layer, as_codes(layer, kind) if form == "uint4" else as_int8(layer))
        for node in list(marked.model.graph):
            if node.domain == DOMAIN and node.op_type == QUANTIZE:
                grid = marked.activations[attribute(node, "name", "")]
                if form == "uint4" and grid.bits <= 4:
                    for marker in quantize_after_pooling(editor, node):
                        clipped_quantizer(editor, marker, grid, uint4)
                else:
                    clipped_quantizer(editor, node, grid, np.dtype(np.int8))
    editor.finish([INPUT], [OUTPUT])
    counts = [layer.codes.codes.numel() for layer in layers]
    widths = [4 if form == "uint4" and narrow else 8 for narrow in small]
    mean = sum(n * w for n, w in zip(counts, widths, strict=True)) / max(sum(counts), 1)
    return reasons, mean
