"""Random networks for the engine on which float arithmetic is exact: all kernels must give equal bits.

Steps, scales and biases are powers of two or multiples of them, sums stay below 2^24, so no operation
rounds but the quantizers, and those meet ties too.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.tiny import Content, Tensors, convolution, step, value, write
from hast_cuda.exports.packed_weight import pack

CLIPS: list[Content | None] = [
    None,
    {"kind": "clip", "a": 0, "b": None},
    {"kind": "clip", "a": -1.5, "b": 6},
    {"kind": "leaky_relu", "a": 0.25, "b": None},
]


@dataclass
class Builder:
    """Values and steps that grow from the images on."""

    random: np.random.Generator
    channels: int
    size: int
    first: int = 0  # values before it are read by nothing else
    values: list[Content] = field(default_factory=list)
    steps: list[Content] = field(default_factory=list)
    tensors: Tensors = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.values.append(value("images", self.channels, self.size, self.size))

    def pick(self, *choices: Any) -> Any:
        return choices[self.random.integers(len(choices))]

    def value(self, *shape: int, bits: int | None) -> int:
        zero_point = 0 if bits is None else int(self.random.integers(0, 2**bits))
        entry = value(f"v{len(self.values)}", *shape, bits=bits, step=2.0**-3, zero_point=zero_point)
        self.values.append(entry)
        return len(self.values) - 1

    def shape(self, index: int) -> list[int]:
        found: list[int] = self.values[index]["shape"]
        return found

    def bits(self) -> int | None:
        found: int | None = self.pick(3, 4, 4, 8, None)
        return found

    def convolve(
        self,
        source: int,
        out: int,
        kernel: tuple[int, int],
        *,
        groups: int = 1,
        stride: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        weight_bits: int = 4,
        codes: np.ndarray[Any, Any] | None = None,
        zero_point: int | None = None,
        bits: int | None = None,
        residual: bool = False,
    ) -> int:
        channels, height, width = self.shape(source)
        rows = (height + padding[0] + padding[2] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
        columns = (width + padding[1] + padding[3] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
        shape = (out, channels // groups, *kernel)
        if codes is None:
            codes = self.random.integers(0, 2**weight_bits, shape)
        same = [i for i in range(self.first, len(self.values)) if self.shape(i) == [out, rows, columns]]
        output = self.value(out, rows, columns, bits=bits)
        name = f"c{len(self.steps)}"
        added = convolution(name, [source], output, 1, weight_bits, activation=self.pick(*CLIPS))
        added |= {"kernel": list(kernel), "stride": list(stride), "dilation": list(dilation)}
        added |= {
            "padding": list(padding),
            "groups": groups,
            "residual": self.pick(*same) if residual and same else None,
        }
        self.steps.append(added)
        zero_points = self.random.integers(0, 2**weight_bits, out) if zero_point is None else np.full(out, zero_point)
        # sums of about n terms of a few units, down to about one
        scale = 2.0 ** -np.ceil(np.log2(math.prod(shape[1:]) * 2**weight_bits / 8))
        signs = self.random.choice([-1.0, 1.0], out)
        self.tensors |= {
            f"{name}.codes": pack(torch.from_numpy(codes.astype(np.uint8)), weight_bits),
            f"{name}.zero_point": torch.from_numpy(zero_points.astype(np.int32)),
            f"{name}.scale": torch.from_numpy(scale * signs),
            f"{name}.bias": torch.from_numpy(self.random.integers(-32, 32, out) / 16),
        }
        return output

    def finish(self, source: int, path: Path, classes: int = 5) -> Path:
        """Pooled and classified, written."""
        _, height, width = self.shape(source)
        if self.values[source].get("bits") is None:
            source = self.convert(source, 4)
        output = self.convolve(source, classes, (height, width))
        self.steps[-1]["activation"] = None
        content = {
            "input": {"channels": self.channels, "height": self.size, "width": self.size,
                      "mean": [0.5] * self.channels, "std": [0.25] * self.channels},
            "classes": [], "describe": {}, "values": self.values, "output": output, "steps": self.steps,
        }  # fmt: skip
        return write(path, json.dumps(content, sort_keys=True), self.tensors)

    def convert(self, source: int, bits: int | None) -> int:
        output = self.value(*self.shape(source), bits=bits)
        self.steps.append(step("convert", f"convert{len(self.steps)}", [source], output, self.pick(*CLIPS)))
        return output

    def add(self, source: int) -> int:
        """And a value of its shape."""
        same = [i for i in range(self.first, len(self.values)) if self.shape(i) == self.shape(source)]
        output = self.value(*self.shape(source), bits=self.bits())
        self.steps.append(step("add", f"a{len(self.steps)}", [source, self.pick(*same)], output, self.pick(*CLIPS)))
        return output

    def join(self, sources: list[int], bits: int | None) -> int:
        _, height, width = self.shape(sources[0])
        output = self.value(sum(self.shape(i)[0] for i in sources), height, width, bits=bits)
        self.steps.append(step("concatenate", f"j{len(self.steps)}", sources, output))
        return output

    def random_step(self) -> None:
        """One more step on some value."""
        source = int(self.random.integers(self.first, len(self.values)))
        channels, height, width = self.shape(source)
        kind = self.pick("dense", "dense", "dense", "depthwise", "grouped", "pool", "convert", "two", "cat", "gather")
        kernel = (min(self.pick(1, 1, 2, 3, 3, 5), height), min(self.pick(1, 1, 3, 3, 5), width))
        stride = (self.pick(1, 1, 2), self.pick(1, 1, 2, 3))
        padding = tuple(int(self.random.integers(0, k)) if k > 1 else 0 for k in (*kernel, *kernel))
        more: dict[str, Any] = {
            "stride": stride,
            "padding": padding,
            "bits": self.bits(),
            "weight_bits": self.pick(3, 4, 7, 8),
        }
        if kind == "dense":
            self.convolve(source, int(self.random.integers(1, 70)), kernel, residual=self.pick(False, True), **more)
        elif kind == "depthwise" and channels > 1:
            square = (min(kernel), min(kernel))
            more["padding"] = tuple(int(self.random.integers(0, square[0])) for _ in range(4))
            more["stride"] = (stride[0], stride[0])
            self.convolve(source, channels, square, groups=channels, residual=self.pick(False, True), **more)
        elif kind == "grouped" and channels % 2 == 0:
            self.convolve(source, 2 * int(self.random.integers(1, 20)), kernel, groups=2, **more)
        elif kind == "pool":
            entry = self.values[source]
            grid = {k: entry[k] for k in ("bits", "step", "zero_point") if k in entry}
            rows = (height + padding[0] + padding[2] - kernel[0]) // stride[0] + 1
            columns = (width + padding[1] + padding[3] - kernel[1]) // stride[1] + 1
            self.values.append({"name": f"v{len(self.values)}", "shape": [channels, rows, columns], **grid})
            self.steps.append(  # every window sees something: padding is less than the kernel
                step("max_pool", f"p{len(self.steps)}", [source], len(self.values) - 1, kernel=list(kernel),
                     stride=list(stride), dilation=[1, 1], padding=list(padding))
            )  # fmt: skip
        elif kind == "convert":
            self.convert(source, self.bits())
        elif kind == "two":
            self.add(source)
        elif kind == "cat":
            fits = [i for i in range(self.first, len(self.values)) if self.shape(i)[1:] == [height, width]]
            self.join([source, *(self.pick(*fits) for _ in range(self.pick(1, 2)))], self.bits())
        elif kind == "gather" and self._has_zero(source):
            chosen = self.random.integers(-1, channels, int(self.random.integers(1, 40)))
            entry = self.values[source]
            grid = {k: entry[k] for k in ("bits", "step", "zero_point") if k in entry}
            rows, columns = (-(-n // s) for n, s in zip((height, width), stride, strict=True))
            self.values.append({"name": f"v{len(self.values)}", "shape": [len(chosen), rows, columns], **grid})
            self.steps.append(
                step("gather", f"g{len(self.steps)}", [source], len(self.values) - 1, channels=chosen.tolist(),
                     stride=list(stride))
            )  # fmt: skip

    def _has_zero(self, index: int) -> bool:
        entry = self.values[index]
        return "bits" not in entry or 0 <= entry["zero_point"] < 2 ** entry["bits"]


def random_network(seed: int, path: Path) -> Path:
    """A file with a dozen steps of every kind."""
    random = np.random.default_rng(seed)
    builder = Builder(random, int(random.integers(1, 5)), int(random.integers(5, 12)))
    for _ in range(12):
        builder.random_step()
    return builder.finish(len(builder.values) - 1, path)


def skipping_network(seed: int, path: Path) -> Path:
    """Maps of one size with borders that live for one step or many, read once or often, and all matter.

    In every second one, images are read by nothing but what makes codes of them.
    """
    random = np.random.default_rng(seed)
    builder = Builder(random, int(random.integers(1, 6)), (5, 7, 19)[seed % 3])
    last = 0
    if seed % 2:
        last = builder.first = builder.convert(0, builder.pick(4, 8))
        builder.steps[-1]["activation"] = builder.pick(*CLIPS[:3])
    unread = {last}
    for _ in range(20):
        source = last if builder.pick(True, False) else builder.pick(*sorted(unread))
        channels = builder.shape(source)[0]
        kind = builder.pick("dense", "dense", "depthwise", "add", "join")
        bits = builder.pick(3, 4, 8)
        window: dict[str, Any] = {
            "padding": (1, 1, 1, 1),
            "bits": bits,
            "residual": builder.pick(True, False),
            "weight_bits": builder.pick(3, 4, 8),
        }
        if kind == "dense" or channels == 1:
            last = builder.convolve(source, builder.pick(3, 8, 20), (3, 3), **window)
        elif kind == "depthwise":
            last = builder.convolve(source, channels, (3, 3), groups=channels, **window)
        elif kind == "join" and channels < 40:
            last = builder.join([source, builder.pick(*sorted(unread))], bits)
        else:
            last = builder.add(source)
        made = builder.steps[-1]
        unread = (unread - {*made["inputs"], made.get("residual")}) | {last}
    return builder.finish(builder.convolve(builder.join(sorted(unread), 4), 8, (1, 1), bits=3), path)


EXTREMES = [(4, 4, 512), (3, 4, 260), (8, 4, 64), (8, 7, 48), (8, 8, 48), (4, 8, 130), (8, 3, 300)]
"""Bits of codes and of weights, and channels, whose largest sums 16 bits cannot hold for long."""


def extreme_network(code_bits: int, weight_bits: int, channels: int, sign: int, path: Path) -> Path:
    """All codes and all weights at an end: of one sign, of the other, or (0) long runs of one, then of the other."""
    largest = 2**weight_bits - 1
    builder = Builder(np.random.default_rng(0), channels, 3)
    full = builder.convert(0, code_bits)
    builder.steps[-1]["activation"] = None
    builder.values[full]["zero_point"] = 0
    codes = np.full((20, channels, 3, 3), largest if sign > 0 else 0)
    if sign == 0:
        codes[:, : channels // 2] = largest
    zero_point = {1: 0, -1: largest, 0: largest // 2}[sign]
    builder.convolve(full, 20, (3, 3), weight_bits=weight_bits, codes=codes, zero_point=zero_point)
    builder.steps[-1]["activation"] = None
    return builder.finish(len(builder.values) - 1, path)
