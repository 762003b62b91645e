"""Hostile values for an annotation: what it forbids, and what it allows and nobody expects."""

from __future__ import annotations

import collections.abc
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

NAN, INFINITY = float("nan"), float("inf")


class Broken(nn.Module):
    """A network that gives no logits."""

    def forward(self, x: Tensor) -> Any:
        """Nothing that can be compared."""
        return (x, None)


ANYTHING: list[Any] = [
    None, True, 3, 2.5, 1j, "x", b"x", [], ["a"], (1, 2), {}, {"a": 1}, object(), torch.zeros(2, 3),
    nn.Linear, nn.Identity(), lambda: None, Path("nowhere"), np.ones(3), torch.float32,
]  # fmt: skip
_TENSORS: list[Any] = [
    torch.zeros(()), torch.zeros(0), torch.zeros(2, 3, 0, 4), torch.full((2, 3, 8, 8), NAN),
    torch.full((2, 3, 8, 8), INFINITY), torch.zeros(2, 3, 8, 8, dtype=torch.int64),
    torch.zeros(2, 3, 8, 8, dtype=torch.complex64), torch.zeros(2, 3, 8, 8, device="meta"),
    torch.zeros(2, 3, 8, 8, dtype=torch.float64), torch.zeros(2, 3, 8, 8, dtype=torch.float16),
    torch.zeros(2, 4, 8, 8), torch.zeros(1, 1, 1, 1), torch.eye(3).to_sparse(),
    torch.tensor([-1, 99]), torch.tensor([True, False]), torch.zeros(2, 3, 8, 8)[:, :, ::2],
]  # fmt: skip
_MODULES: list[Any] = [
    nn.Identity(), nn.Sequential(), Broken(), nn.Linear(2, 2), nn.Linear(2, 2, device="meta"),
    nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
    nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).half(),
]  # fmt: skip
_TEXTS: list[Any] = [
    "",
    "nonsense",
    "\0",
    "ü🙂",
    "../x",
    "a" * 5000,
    "1e999",
    ":",
    "a:b",
    "cuda:99",
]
_ODD: dict[Any, list[Any]] = {
    int: [0, 1, -1, 9, 2**31, -(2**63), 2**70],
    float: [0, 0.0, -1.0, 1e-300, 1e300, NAN, INFINITY, -INFINITY, 10**400],
    str: _TEXTS,
    Path: [
        Path(),
        Path("/"),
        Path("/dev/null"),
        Path("/proc/self/mem"),
        Path("a\0b"),
        Path("x" * 300),
        Path("ü/🙂"),
    ],
    Tensor: _TENSORS,
    nn.Module: _MODULES,
    torch.device: [torch.device("meta"), torch.device("cuda:99"), torch.device("mps")],
    tuple: [
        (),
        (3, 8),
        (3, 8, 8, 8),
        (0, 8, 8),
        (-3, 8, 8),
        (3, 2**40, 2**40),
        (3.0, 8, 8),
        ("3", 8, 8),
        (NAN, NAN),
        (1, 0),
        (NAN, 0.5, 0.5),
    ],
    Sequence: [[], [None], [torch.zeros(2)], ["x", "x"], [3, 2**70], ["\0"]],
    list: [[], [None], ["x"], [3], [""]],
    Iterable: [
        [],
        iter([]),
        [None],
        [(None, None)],
        iter([3]),
        [torch.zeros(0)],
        [torch.zeros(2, 2)],
        [(torch.zeros(2, 3, 8, 8), torch.tensor([0, 99]))],
        [(torch.zeros(2, 3, 8, 8), torch.tensor([0.0, 1.0]))],
        [(torch.zeros(2, 4, 8, 8), torch.tensor([0, 1]))],
        [{"phase": "a", "iteration": "x"}],
        [{"phase": 3, "iteration": 2**70, "batch": None}],
    ],
    Mapping: [{}, {1: 2}, {"": None}, {"x": 1}, {"x": NAN}, {"x": []}, {"ü\0": [NAN, 1.0]}],
    dict: [{}, {1: 2}, {"x": object()}, {"x": {1, 2}}, {"x": NAN}],
}
_UNIONS = (typing.Union, types.UnionType)
_OF = {collections.abc.Sequence: Sequence, collections.abc.Iterable: Iterable,
       collections.abc.Mapping: Mapping, collections.abc.Callable: Callable}  # fmt: skip


def allows(hint: Any, value: Any) -> bool:
    """Whether the outermost type of ``value`` is one that the annotation has."""
    origin = typing.get_origin(hint)
    if isinstance(hint, TypeVar):
        return hint.__bound__ is None or isinstance(value, hint.__bound__)
    if origin in _UNIONS:
        return any(allows(part, value) for part in typing.get_args(hint))
    if origin is typing.Literal:
        return isinstance(value, str)
    if hint is Any or hint is object:
        return True
    if hint is float:
        return type(value) in (int, float)
    if hint is int:
        return type(value) is int
    kind = origin or hint
    if kind in (collections.abc.Sequence, collections.abc.Iterable):
        return isinstance(value, kind) and not isinstance(value, (str, bytes))
    # a list of three is as good a shape as a tuple, wherever nothing is kept of it
    return isinstance(value, kind)


def forbidden(hint: Any) -> list[Any]:
    """Values that must be refused whatever the other arguments are."""
    return [value for value in ANYTHING if not allows(hint, value)]


def odd(hint: Any) -> list[Any]:
    """Values that the annotation allows: an answer or a refusal is right."""
    origin = typing.get_origin(hint)
    if isinstance(hint, TypeVar):
        return odd(hint.__bound__)
    if origin in _UNIONS:
        return [value for part in typing.get_args(hint) for value in odd(part)]
    if origin is typing.Literal:
        return _TEXTS
    if origin is collections.abc.Callable:
        return []  # what the caller's own functions raise is the caller's
    kind = _OF.get(origin, origin or hint)
    known = _ODD.get(kind, []) if not dataclass_like(kind) else []
    return [*known, *(value for value in ANYTHING if allows(hint, value))]


def dataclass_like(kind: Any) -> bool:
    """Whether it is a configuration, which is fuzzed on its own."""
    return hasattr(kind, "__dataclass_fields__")
