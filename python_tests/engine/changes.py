"""Changes of a student.hast that make it one to refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from engine.tiny import Content, Tensors, convolution, step, value

Change = Callable[[Content, Tensors], None]


def at(*keys: Any, to: Any) -> Change:
    """The field of the content behind ``keys`` becomes ``to``."""

    def change(content: Content, tensors: Tensors) -> None:
        found: Any = content
        for key in keys[:-1]:
            found = found[key]
        found[keys[-1]] = to

    return change


def without(*keys: Any) -> Change:
    def change(content: Content, tensors: Tensors) -> None:
        found: Any = content
        for key in keys[:-1]:
            found = found[key]
        del found[keys[-1]]

    return change


def tensor(name: str, to: torch.Tensor | None) -> Change:
    def change(content: Content, tensors: Tensors) -> None:
        if to is None:
            del tensors[name]
        else:
            tensors[name] = to

    return change


def both(*changes: Change) -> Change:
    def change(content: Content, tensors: Tensors) -> None:
        for one in changes:
            one(content, tensors)

    return change


def spoiled(name: str, index: int, number: float) -> Change:
    def change(content: Content, tensors: Tensors) -> None:
        tensors[name].view(-1)[index] = number

    return change


def swapped(i: int, j: int) -> Change:
    def change(content: Content, tensors: Tensors) -> None:
        steps = content["steps"]
        steps[i], steps[j] = steps[j], steps[i]

    return change


def wide_sum(content: Content, tensors: Tensors) -> None:
    """A linear layer of so many inputs that 8-bit codes and weights overflow 32 bits."""
    content["values"] = [
        value("images", 3, 1, 1),
        value("codes", 3, 1, 1, bits=8),
        value("many", 33_026, 1, 1, bits=8),
        value("logits", 3, 1, 1),
    ]
    content["input"].update(height=1, width=1)
    content["steps"] = [
        step("convert", "quantize", [0], 1),
        step("gather", "many", [1], 2, channels=[0] * 33_026, stride=[1, 1]),
        convolution("fc", [2], 3, 1, 8),
    ]
    content["output"] = 3
    for name in [name for name in tensors if not name.startswith("fc.") or name == "fc.weight"]:
        del tensors[name]
    tensors["fc.codes"] = torch.full((3 * 33_026,), 255, dtype=torch.uint8)
    tensors["fc.zero_point"] = torch.tensor([1, 0, 0], dtype=torch.int32)


def same_name(content: Content, tensors: Tensors) -> None:
    content["steps"].insert(2, {**content["steps"][1], "output": len(content["values"])})
    content["values"].append(value("again", 4, 8, 8, bits=4))
