"""A small network with every op, as the content and the tensors of a student.hast."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hast_cuda.exports.packed_weight import pack
from hast_cuda.files.tensors import save_tensors

FORMAT = "hast_cuda.engine.v1"
Content = dict[str, Any]
Tensors = dict[str, Tensor]


def value(name: str, *shape: int, bits: int | None = None, step: float = 0.125, zero_point: int = 0) -> Content:
    grid = {} if bits is None else {"bits": bits, "step": step, "zero_point": zero_point}
    return {"name": name, "shape": list(shape), **grid}


def step(op: str, name: str, inputs: list[int], output: int, activation: Content | None = None, **more: Any) -> Content:
    return {"op": op, "name": name, "inputs": inputs, "output": output, "activation": activation, **more}


def convolution(name: str, inputs: list[int], output: int, kernel: int, bits: int | None, **more: Any) -> Content:
    fields = {
        "residual": None,
        "kernel": [kernel, kernel],
        "stride": [1, 1],
        "dilation": [1, 1],
        "padding": [0, 0, 0, 0],
        "groups": 1,
        "bits": bits,
    }
    return step("convolution", name, inputs, output, **{**fields, **more})


def tiny() -> tuple[Content, Tensors]:
    """Content and tensors, the same each time; whoever changes them may."""
    relu = {"kind": "clip", "a": 0, "b": None}
    window = {"kernel": [3, 3], "stride": [2, 2], "padding": [1, 1, 0, 0]}
    values = [
        value("images", 3, 8, 8),
        value("pixels", 3, 8, 8, bits=8, step=0.02, zero_point=128),
        value("first", 4, 8, 8, bits=4),
        value("second", 4, 8, 8),
        value("narrow", 6, 4, 4),
        value("largest", 4, 4, 4, bits=4),
        value("joined", 10, 4, 4, bits=8, step=0.0625, zero_point=-3),
        value("mean", 10, 1, 1),
        value("scaled", 10, 4, 4, bits=3, step=0.5, zero_point=2),
        value("sum", 10, 4, 4),
        value("logits", 3, 1, 1),
    ]
    steps = [
        step("convert", "quantize", [0], 1),
        convolution("layer.conv1", [1], 2, 3, 3, padding=[1, 1, 1, 1], activation=relu),
        convolution(
            "layer.conv2",
            [2],
            3,
            3,
            8,
            padding=[0, 1, 4, 3],
            dilation=[2, 2],
            groups=2,
            residual=2,
            activation={"kind": "leaky_relu", "a": 0.125},
        ),
        step("gather", "narrow", [3], 4, channels=[0, -1, 3, 2, -1, 1], stride=[2, 2]),
        step("max_pool", "pool", [2], 5, dilation=[1, 1], **window),
        step("concatenate", "cat", [4, 5], 6),
        step("average_pool", "mean", [6], 7, kernel=[4, 4], stride=[1, 1], padding=[0, 0, 0, 0], count_padding=True),
        step("multiply", "excite", [6, 7], 8, {"kind": "hard_sigmoid", "a": 0.25, "b": 0.5}),
        step("add", "plus", [8, 6], 9, {"kind": "silu"}),
        convolution("fc", [9], 10, 4, None),
    ]
    content = {
        "input": {"channels": 3, "height": 8, "width": 8, "mean": [0.5, 0.25, 0.125], "std": [0.25, 0.5, 1]},
        "classes": ["cat", "dog", "größer 😀"],
        "describe": {"model": "tiny", "nested": [{"b": None}, 1e-3]},
        "values": values,
        "output": 10,
        "steps": steps,
    }
    made = torch.Generator().manual_seed(0)
    tensors = {"fc.weight": torch.randn(3, 10, 4, 4, generator=made)}
    for name, shape, bits in (("layer.conv1", (4, 3, 3, 3), 3), ("layer.conv2", (4, 2, 3, 3), 8)):
        codes = torch.randint(0, 2**bits, shape, generator=made, dtype=torch.uint8)
        tensors[f"{name}.codes"] = pack(codes, bits)
        tensors[f"{name}.zero_point"] = torch.tensor([0, 1, 2**bits - 1, 3], dtype=torch.int32)
    for name, out in (("layer.conv1", 4), ("layer.conv2", 4), ("fc", 3)):
        tensors[f"{name}.scale"] = torch.randn(out, generator=made).double()
        tensors[f"{name}.bias"] = torch.randn(out, generator=made).double()
    return content, tensors


def write(path: Path, content: Content | str, tensors: Tensors, **metadata: str) -> Path:
    """The file, with the checksum that fits."""
    text = content if isinstance(content, str) else json.dumps(content, sort_keys=True)
    save_tensors(path, tensors, {"format": FORMAT, "content": text, **metadata}, text=text)
    return path
