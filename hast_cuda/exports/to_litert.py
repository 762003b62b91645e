"""TFLite files in int8 of a quantized network, for LiteRT."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_path, check_image_size, check_values
from hast_cuda.exports.grid import float_bytes
from hast_cuda.exports.marked import mark, require_onnx
from hast_cuda.exports.records import Exported
from hast_cuda.exports.verify import require_litert
from hast_cuda.files.whole import replace_file

_OPSET = 18
_INTEGER = ("CONV_2D", "DEPTHWISE_CONV_2D")


@typed
def save_litert(
    student: nn.Module, path: Path | str, shape: tuple[int, int, int], *, describe: Mapping[str, Any] | None = None
) -> Exported:
    """Write ``student`` as a TFLite file: int8 between the quantizer of the images and the classifier.

    Its input "images" is float32 [1, H, W, C], normalised (LiteRT resizes the first axis), its output
    "logits" [1, classes].

    Args:
        student: calibrated, of placement "integer"; :func:`integer_biases` makes the file exact; never edited.
        path: file to write, whole or not at all.
        shape: (C, H, W) of normalised images.
        describe: more entries for the file's metadata.

    Raises:
        ImportError: packages of the extras "export" and "litert" are missing. ValueError: a network that int8
            cannot compute (the step is named), before anything is written.

    Example:
        >>> import hast_cuda as hc
        >>> student = hc.quantize(hc.load_teacher("digits"), 4, 4, placement="integer")
        >>> student = hc.calibrate(student, [torch.rand(8, 1, 8, 8)])
        >>> save_litert(student, "student.tflite", (1, 8, 8)).float_layers  # doctest: +SKIP
        {}
    """
    check_image_size("shape", shape)
    check_values("student", student)
    path = as_path("path", path)
    require_onnx()
    require_litert()
    from hast_cuda.exports.engine_plan import plan  # noqa: PLC0415 - optional packages
    from hast_cuda.exports.litert_graph import LitertGraph  # noqa: PLC0415

    graph = LitertGraph(plan(mark(student, shape, _OPSET), shape))
    graph.write()
    described = {str(key): str(value) for key, value in (describe or {}).items()}
    data = graph.model.file(graph.images, graph.logits, "made by hast_cuda", described)
    with replace_file(path) as temporary:
        temporary.write_bytes(data)
    nodes = Counter(graph.model.operators)
    return Exported(
        "litert",
        path,
        len(data),
        float_bytes(student),
        8.0,
        dict(nodes),
        sum(nodes[op] for op in _INTEGER),
        rounded_layers=graph.rounded,
    )
