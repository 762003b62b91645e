"""One file that the engine runs: the steps of a quantized network, its packed weights and its input."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_path, check_image_size, check_json, check_values
from hast_cuda.deploy.file import FORMAT
from hast_cuda.exports.engine_steps import CONVOLUTION, GATHER, Plan, Step, Value
from hast_cuda.exports.grid import float_bytes
from hast_cuda.exports.marked import mark, require_onnx
from hast_cuda.exports.packed_weight import pack
from hast_cuda.exports.records import Exported
from hast_cuda.files.tensors import save_tensors
from hast_cuda.files.versions import VERSION

_OPSET = 18


@typed
def save_engine(
    student: nn.Module,
    path: Path | str,
    shape: tuple[int, int, int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Sequence[str] = (),
    describe: Mapping[str, Any] | None = None,
) -> Exported:
    """Write ``student`` for the engine, which needs no torch: :func:`hast_cuda.deploy.load` reads it.

    Args:
        student: calibrated, from :func:`hast_cuda.quantize` or a run; never edited.
        path: file to write, whole or not at all; its name usually ends in ".hast".
        shape: (C, H, W) of normalised images.
        mean: per channel, of pixels in [0, 1]; None: 0.
        std: per channel, positive; None: 1.
        classes: what each logit stands for; empty if that is not known.
        describe: more that the file says of itself, as JSON.

    Raises:
        ImportError: packages of the extra "export" are missing. ValueError: numbers that do not fit
            the network, or a network that the engine cannot run (the layer or node is named), before
            anything is written.

    Example:
        >>> import hast_cuda as hc
        >>> student = hc.quantize(hc.load_teacher("digits"), 4, None)
        >>> save_engine(student, "student.hast", (1, 8, 8)).kind  # doctest: +SKIP
        'engine'
    """
    check_image_size("shape", shape)
    check_values("student", student)
    path = as_path("path", path)
    described = {"versions": {"hast_cuda": VERSION, "torch": torch.__version__}, **(describe or {})}
    check_json("describe", described)
    given = {"mean": _per_channel("mean", mean, 0.0, shape[0]), "std": _per_channel("std", std, 1.0, shape[0])}
    if min(given["std"]) <= 0:
        raise ValueError(f"std is {list(given['std'])}; each must be greater than 0")
    require_onnx()
    from hast_cuda.exports.engine_plan import plan  # noqa: PLC0415 - it needs optional packages

    marked = mark(student, shape, _OPSET)
    found = plan(marked, shape)
    outputs = found.output.shape[0]
    if classes and len(classes) != outputs:
        raise ValueError(f"classes has {len(classes)} names, the network has {outputs} classes")
    values = found.values()
    number = {value: index for index, value in enumerate(values)}
    content = {
        "input": {"channels": shape[0], "height": shape[1], "width": shape[2], **given},
        "classes": list(classes),
        "describe": described,
        "values": [_value(value) for value in values],
        "output": number[found.output],
        "steps": [_step(step, number) for step in found.steps],
    }
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    save_tensors(path, _tensors(found), {"format": FORMAT, "content": text}, text=text)
    return _exported(path, found, float_bytes(student))


def _per_channel(name: str, given: Sequence[float] | None, default: float, channels: int) -> list[float]:
    numbers = [default] * channels if given is None else [float(number) for number in given]
    if len(numbers) != channels or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} is {numbers}; expected a finite number for each of {channels} channels")
    return numbers


def _value(value: Value) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": value.name, "shape": list(value.shape)}
    if value.grid is not None:
        entry |= {"bits": value.grid.bits, "step": value.grid.step, "zero_point": value.grid.zero_point}
    return entry


def _step(step: Step, number: Mapping[Value, int]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "op": step.op,
        "name": step.name,
        "inputs": [number[value] for value in step.inputs],
        "output": number[step.output],
        "activation": None,
    }
    if step.activation is not None:
        given = {"a": step.activation.a, "b": step.activation.b}
        used = {"clip": "ab", "hard_sigmoid": "ab", "leaky_relu": "a"}.get(step.activation.kind, "")
        entry["activation"] = {"kind": step.activation.kind, **{key: given[key] for key in used}}
    window = step.window
    if step.op == GATHER and window is not None:
        entry |= {"channels": list(step.channels), "stride": list(window.stride)}
    elif window is not None:
        entry |= {"kernel": list(window.kernel), "stride": list(window.stride), "padding": list(window.padding)}
        if step.op == "average_pool":
            entry["count_padding"] = step.count_padding
        else:
            entry["dilation"] = list(window.dilation)
    if step.weights is not None:
        residual = None if step.residual is None else number[step.residual]
        entry |= {"residual": residual, "groups": step.groups, "bits": step.weights.bits}
    return entry


def _tensors(found: Plan) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for step in found.steps:
        weights = step.weights
        if weights is None:
            continue
        parts = {"scale": weights.scale.astype(np.float64), "bias": weights.bias.astype(np.float64)}
        if weights.bits is None or weights.zero_point is None:
            parts["weight"] = weights.values.astype(np.float32)
        else:
            parts["zero_point"] = weights.zero_point.astype(np.int32)
            codes = torch.from_numpy(weights.values.astype(np.uint8))
            tensors[f"{step.name}.codes"] = pack(codes, weights.bits)
        for part, array in parts.items():
            tensors[f"{step.name}.{part}"] = torch.from_numpy(np.ascontiguousarray(array))
    return tensors


def _exported(path: Path, found: Plan, full: int) -> Exported:
    """Sizes, steps, and which convolutions multiply floats, and why."""
    layers = [step for step in found.steps if step.op == CONVOLUTION and step.weights is not None]
    reasons, bits, count = {}, 0, 0
    for step in layers:
        assert step.weights is not None
        if step.weights.bits is None:
            why = "a factor and a shift per channel, with no convolution before them"
            reasons[step.name] = why if step.affine else "its weights are not integers of the engine"
            continue
        bits, count = bits + step.weights.bits * step.weights.values.size, count + step.weights.values.size
        if step.inputs[0].grid is None:
            reasons[step.name] = "its input is not quantized"
    ops = dict(Counter(step.op for step in found.steps))
    mean = bits / count if count else None
    return Exported("engine", path, path.stat().st_size, full, mean, ops, len(layers) - len(reasons), reasons)
