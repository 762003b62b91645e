"""ONNX files of a quantized network, in three forms for different runtimes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_path, check_choice, check_image_size, check_values
from hast_cuda.exports.grid import float_bytes
from hast_cuda.exports.marked import INPUT, OUTPUT, QUANTIZE, MarkedModel, mark, require_onnx
from hast_cuda.exports.records import Exported
from hast_cuda.files.whole import replace_file

FORMS = ("ort", "portable", "uint4")
_OPSET = {"ort": 18, "portable": 18, "uint4": 21}
_IR_VERSION = {"ort": 8, "portable": 8, "uint4": 10}


@typed
def save_onnx(
    student: nn.Module,
    path: Path | str,
    shape: tuple[int, int, int],
    *,
    form: str = "ort",
    describe: Mapping[str, Any] | None = None,
) -> Exported:
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

    Example:
        >>> import hast_cuda as hc
        >>> student = hc.quantize(hc.load_teacher("digits"), 4, None)
        >>> save_onnx(student, "student.onnx", (1, 8, 8)).integer_layers  # doctest: +SKIP
        0
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
    described = {str(k): str(v) for k, v in (describe or {}).items()}
    model.metadata_props.update({"hast_cuda.form": form, **described})
    proto = ir.serde.serialize_model(model)
    onnx.checker.check_model(proto, full_check=True)
    with replace_file(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
    nodes = Counter(node.op_type for node in model.graph)
    integer = sum(nodes[op] for op in ("QLinearConv", "ConvInteger", "MatMulInteger"))
    return Exported(
        f"onnx-{form}", path, path.stat().st_size, float_bytes(student), bits, dict(nodes), integer, reasons
    )


def _rewrite(marked: MarkedModel, form: str) -> tuple[dict[str, str], float]:
    """Replace every marker; gives the layers that stay float and the mean bits per weight."""
    import ml_dtypes  # noqa: PLC0415 - they come with the optional packages

    from hast_cuda.exports.dequantized import clipped_quantizer, float_layer, quantize_after_pooling  # noqa: PLC0415
    from hast_cuda.exports.editing import Editor  # noqa: PLC0415
    from hast_cuda.exports.folded import is_marker, quantized_layers  # noqa: PLC0415
    from hast_cuda.exports.integer import IntegerRewriter  # noqa: PLC0415

    int8, uint8, uint4 = (np.dtype(kind) for kind in (np.int8, np.uint8, ml_dtypes.uint4))
    layers = quantized_layers(marked)
    small = [form == "uint4" and layer.codes.grid.bits <= 4 for layer in layers]
    if form == "uint4" and not any(small):
        raise ValueError('no weight has 4 bits or fewer: the form "uint4" has nothing to store; use "ort"')
    editor, reasons = Editor(marked.model), {}
    if form == "ort":
        rewriter = IntegerRewriter(editor, marked.activations, {x.node: x for x in layers})
        rewriter.rewrite()
        reasons = rewriter.reasons
    else:
        for layer, narrow in zip(layers, small, strict=True):
            float_layer(editor, layer, uint4 if narrow else uint8 if form == "uint4" else int8)
        for node in [n for n in marked.model.graph if is_marker(n, QUANTIZE)]:
            affine = marked.activations[node.attributes["name"].value]
            narrow = form == "uint4" and affine.bits <= 4
            for marker in quantize_after_pooling(editor, node) if narrow else [node]:
                clipped_quantizer(editor, marker, affine, uint4 if narrow else int8)
    editor.finish([INPUT], [OUTPUT])
    counts = [layer.codes.codes.numel() for layer in layers]
    stored = sum(n * (4 if narrow else 8) for n, narrow in zip(counts, small, strict=True))
    return reasons, stored / max(sum(counts), 1)
