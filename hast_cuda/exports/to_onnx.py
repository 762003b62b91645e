"""ONNX files of a quantized network, in five forms for different runtimes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_path, check_choice, check_image_size, check_values
from hast_cuda.exports.grid import float_bytes
from hast_cuda.exports.marked import mark, require_onnx
from hast_cuda.exports.records import Exported
from hast_cuda.files.versions import VERSION
from hast_cuda.files.whole import replace_file

FORMS = ("ort", "int8", "qdq", "portable", "uint4")
_OPSET = {form: 21 if form == "uint4" else 18 for form in FORMS}
_IR_VERSION = {form: 10 if form == "uint4" else 8 for form in FORMS}
_INTEGER = ("QLinearConv", "ConvInteger", "MatMulInteger")
_ONNXRUNTIME = "com.microsoft"


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
        form: "ort": integer convolutions for onnxruntime; "int8": integers alone between images and
            classifier, for onnxruntime (placement "integer"; :func:`integer_biases` makes that exact);
            "qdq": uint8 and int8 between float operations, for OpenVINO; "portable": int8 with zero point 0
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

    from hast_cuda.exports.forms import rewrite  # noqa: PLC0415

    marked = mark(student, shape, _OPSET[form])
    done, model = rewrite(marked, form), marked.model
    model.ir_version = _IR_VERSION[form]
    model.producer_name, model.producer_version = "hast_cuda", VERSION
    described = {str(k): str(v) for k, v in (describe or {}).items()}
    model.metadata_props.update({"hast_cuda.form": form, **described})
    if any(node.domain == _ONNXRUNTIME for node in model.graph):
        model.opset_imports[_ONNXRUNTIME] = 1
    proto = ir.serde.serialize_model(model)
    onnx.checker.check_model(proto, full_check=True)
    with replace_file(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
    nodes = Counter(node.op_type for node in model.graph)
    return Exported(
        f"onnx-{form}",
        path,
        path.stat().st_size,
        float_bytes(student),
        done.weight_bits,
        dict(nodes),
        sum(nodes[op] for op in _INTEGER),
        done.float_layers,
        rounded_layers=done.rounded_layers,
    )
