"""Zero-shot quantization of pretrained CNNs (HAST, CVPR 2023) on fused C++/CUDA kernels."""

from __future__ import annotations

from hast_cuda.checks.moved import moved_module, moved_names
from hast_cuda.data import Images, ImageSet, InputSpec, evaluate, load_images
from hast_cuda.exports import export_network as export
from hast_cuda.files.versions import VERSION
from hast_cuda.loops.execution import Execution
from hast_cuda.nn import (
    FakeQuantActivation,
    FakeQuantConv2d,
    FakeQuantLinear,
    Override,
    calibrate,
    freeze_ranges,
    quantization_table,
    quantize,
    shrink_ranges,
    unfreeze_ranges,
)
from hast_cuda.ops import (
    attention_loss,
    batch_norm_activation,
    batch_norm_match,
    build_info,
    channel_attention,
    distillation_loss,
    fake_quantize,
    fake_quantize_weights,
    hard_sample_loss,
    match_loss,
    new_range_state,
    quantize_activation,
)
from hast_cuda.run import Bits, load, zero_shot_quantize
from hast_cuda.teachers import load_teacher

__version__ = VERSION

__all__ = [  # noqa: RUF022 - in the order in which they are needed
    # what a user does
    "quantize",
    "calibrate",
    "zero_shot_quantize",
    "export",
    "load",
    "evaluate",
    # with what
    "load_teacher",
    "load_images",
    "Images",
    "ImageSet",
    "InputSpec",
    "Bits",
    "Override",
    "Execution",
    "shrink_ranges",
    "freeze_ranges",
    "unfreeze_ranges",
    "quantization_table",
    "build_info",
    # layers
    "FakeQuantConv2d",
    "FakeQuantLinear",
    "FakeQuantActivation",
    # fused functions
    "fake_quantize",
    "fake_quantize_weights",
    "quantize_activation",
    "new_range_state",
    "batch_norm_activation",
    "batch_norm_match",
    "match_loss",
    "channel_attention",
    "attention_loss",
    "distillation_loss",
    "hard_sample_loss",
]

__getattr__ = moved_names(__name__, {"MatchedBatchNorm2d": "hast_cuda.merged"})

for _module, _home, _names in (
    ("evaluate", "hast_cuda.data", ("evaluate",)),
    ("execution", "hast_cuda.loops.execution", ("Execution",)),
    (
        "export",
        "hast_cuda.exports",
        (
            *("Check", "Exported", "Latency", "OnnxInfo", "PackedInfo", "check", "export_network"),
            *("export_program", "load_packed", "measure", "onnx_network", "read_packed"),
            *("save_float", "save_onnx", "save_packed", "save_program", "to_float"),
        ),
    ),
    ("zoo", "hast_cuda.teachers", ("input_spec", "load_teacher", "load_weights", "model_names")),
):
    moved_module(f"{__name__}.{_module}", _home, _names)
