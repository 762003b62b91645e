"""Zero-shot quantization of pretrained CNNs (HAST, CVPR 2023) on fused C++/CUDA kernels.

Names are looked up when they are first used: this import alone needs no torch, and neither does
:mod:`hast_cuda.deploy`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hast_cuda.checks.moved import moved_module, moved_names
from hast_cuda.files.versions import VERSION

if TYPE_CHECKING:  # from the modules themselves: mypy reads rooms later than this
    from hast_cuda.analysis.allocation import allocate_bits
    from hast_cuda.analysis.sensitivity import sensitivity
    from hast_cuda.calibration import calibration_set
    from hast_cuda.data import Images, ImageSet, InputSpec, evaluate, load_images
    from hast_cuda.exports import export_network as export
    from hast_cuda.loops.execution import Execution
    from hast_cuda.nn import FakeQuantActivation, FakeQuantConv2d, FakeQuantLinear, Override
    from hast_cuda.nn.calibrate import calibrate, freeze_ranges, shrink_ranges, unfreeze_ranges
    from hast_cuda.nn.quantize import quantize
    from hast_cuda.nn.table import quantization_table
    from hast_cuda.ops import build_info
    from hast_cuda.ops.attention_loss import attention_loss
    from hast_cuda.ops.batch_norm_activation import batch_norm_activation
    from hast_cuda.ops.batch_norm_match import batch_norm_match
    from hast_cuda.ops.channel_attention import channel_attention
    from hast_cuda.ops.distillation_loss import distillation_loss
    from hast_cuda.ops.fake_quantize import fake_quantize
    from hast_cuda.ops.fake_quantize_weights import fake_quantize_weights
    from hast_cuda.ops.hard_sample_loss import hard_sample_loss
    from hast_cuda.ops.match_loss import match_loss
    from hast_cuda.ops.quantize_activation import quantize_activation
    from hast_cuda.ops.update_range import new_range_state
    from hast_cuda.run import Bits, load, save, zero_shot_quantize
    from hast_cuda.teachers import load_teacher

__version__ = VERSION

__all__ = [  # noqa: RUF022 - in the order in which they are needed
    # what a user does
    "quantize",
    "calibrate",
    "zero_shot_quantize",
    "export",
    "calibration_set",
    "save",
    "load",
    "evaluate",
    "sensitivity",
    "allocate_bits",
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

_HOMES = {
    "calibration_set": "hast_cuda.calibration",
    **dict.fromkeys(("allocate_bits", "sensitivity"), "hast_cuda.analysis"),
    **dict.fromkeys(("Images", "ImageSet", "InputSpec", "evaluate", "load_images"), "hast_cuda.data"),
    "Execution": "hast_cuda.loops.execution",
    **dict.fromkeys(
        (
            *("FakeQuantActivation", "FakeQuantConv2d", "FakeQuantLinear", "Override", "calibrate", "freeze_ranges"),
            *("quantization_table", "quantize", "shrink_ranges", "unfreeze_ranges"),
        ),
        "hast_cuda.nn",
    ),
    **dict.fromkeys(
        (
            *("attention_loss", "batch_norm_activation", "batch_norm_match", "build_info", "channel_attention"),
            *("distillation_loss", "fake_quantize", "fake_quantize_weights", "hard_sample_loss", "match_loss"),
            *("new_range_state", "quantize_activation"),
        ),
        "hast_cuda.ops",
    ),
    **dict.fromkeys(("Bits", "load", "save", "zero_shot_quantize"), "hast_cuda.run"),
    "load_teacher": "hast_cuda.teachers",
}
_ROOMS = (
    *("analysis", "calibration", "checks", "cli", "data", "deploy", "exports", "files", "finetune", "generator"),
    *("loops", "merged", "methods", "moments", "networks", "nn", "ops", "posttraining", "ranks", "reconstruction"),
    *("report", "reproduce", "run", "synthesis", "teachers"),
)
_moved = moved_names(__name__, {"MatchedBatchNorm2d": "hast_cuda.merged"})


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    if name == "export":
        found = importlib.import_module("hast_cuda.exports").export_network
    elif name in _HOMES:
        found = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        return _moved(name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})


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
    ("input_spec", "hast_cuda.data", ("InputSpec",)),
    ("zoo", "hast_cuda.teachers", ("input_spec", "load_teacher", "load_weights", "model_names")),
):
    moved_module(f"{__name__}.{_module}", _home, _names)
