"""Hostile values: one pool for every argument, of which its annotation forbids some."""

from __future__ import annotations

import collections.abc
import functools
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from fuzzing.judge import attempt
from fuzzing.tensors import HUGE, WRONG_DTYPES, any_tensors
from hast_cuda.checks.typed import checked_value

NAN, INFINITY = float("nan"), float("inf")
WHOLE = [0, 1, -1, 9, 2**31, -(2**63), 2**70]
NUMBERS = [*WHOLE, 0.0, -1.0, 2.5, 1e-300, 1e300, NAN, INFINITY, -INFINITY, 10**400]
TEXTS = ["", "x", "nonsense", "\0", "ü🙂", "../x", "a" * 5000, "1e999", ":", "a:b", "cuda:99"]


class Broken(nn.Module):
    """A network that gives no logits."""

    def forward(self, x: Tensor) -> Any:
        """Nothing that can be compared."""
        return (x, None)


def pool() -> list[Any]:
    """Every value that is tried everywhere, made anew: some are used up or edited."""
    images, pair = torch.zeros(2, 3, 8, 8), torch.tensor([0, 1])
    batches = [(images, torch.tensor([0, 99])), (images, pair.float()), (images[:, :2], pair)]
    return [
        None,
        True,
        1j,
        b"x",
        object(),
        nn.Linear,
        lambda: None,
        np.ones(3),
        torch.float32,
        *NUMBERS,
        *TEXTS,
        *map(Path, [".", "/", "/dev/null", "/proc/self/mem", "a\0b", "x" * 300, "ü/🙂"]),
        *map(torch.device, ["meta", "cuda:99", "mps"]),
        torch.zeros(()),
        torch.zeros(0),
        torch.zeros(2, 3),
        torch.zeros(2, 3, 0, 4),
        torch.full((2, 3, 8, 8), NAN),
        torch.full((2, 3, 8, 8), INFINITY),
        images.to("meta"),
        *(images.to(d) for d in (torch.int64, torch.complex64, torch.float64, torch.float16)),
        torch.zeros(2, 4, 8, 8),
        torch.zeros(1, 1, 1, 1),
        torch.eye(3).to_sparse(),
        torch.tensor([-1, 99]),
        torch.tensor([True, False]),
        images[:, :, ::2],
        nn.Identity(),
        nn.Sequential(),
        Broken(),
        nn.Linear(2, 2),
        nn.Linear(2, 2, device="meta"),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).half(),
        (),
        (1, 2),
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
        [],
        [None],
        ["a"],
        ["x", "x"],
        [3],
        [3, 2**70],
        [""],
        ["\0"],
        [torch.zeros(0)],
        [torch.zeros(2)],
        [torch.zeros(2, 2)],
        iter([]),
        iter([3]),
        [(None, None)],
        *([batch] for batch in batches),
        [{"phase": "a", "iteration": "x"}],
        [{"phase": 3, "iteration": 2**70, "batch": None}],
        {},
        {"a": 1},
        {1: 2},
        {"": None},
        {"x": 1},
        {"x": NAN},
        {"x": []},
        {"x": object()},
        {"x": {1, 2}},
        {"ü\0": [NAN, 1.0]},
    ]


def allows(hint: Any, value: Any) -> bool:
    """Whether the annotation has it."""
    try:
        checked_value("value", value, hint)
    except TypeError:
        return False
    return True


@functools.cache
def _allowed(hint: Any) -> set[int]:
    """Places in the pool."""
    return {place for place, value in enumerate(pool()) if allows(hint, value)}


def forbidden(hint: Any, *, every: bool = False) -> list[Any]:
    """Values that must be refused whatever the other arguments are.

    Annotations forbid by type: one value of each is enough, but for containers, whose items count.
    """
    found = [value for place, value in enumerate(pool()) if place not in _allowed(hint)]
    containers = [value for value in found if isinstance(value, (tuple, list, dict))]
    first = {type(value): value for value in reversed(found) if not isinstance(value, (tuple, list, dict))}
    return found if every else [*first.values(), *containers]


def odd(hint: Any) -> list[Any]:
    """Values that it allows, and nobody expects: an answer or a refusal is right."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    # what the caller's own functions raise is the caller's
    parts = [
        part
        for part in (typing.get_args(hint) if union else (hint,))
        if typing.get_origin(part) is not collections.abc.Callable
    ]
    places = set[int]().union(*map(_allowed, parts))
    return [value for place, value in enumerate(pool()) if place in places]


def drawn(hint: Any) -> st.SearchStrategy[Any]:
    """One of :func:`odd`, or another number, text or tensor."""
    more: list[tuple[Any, st.SearchStrategy[Any]]] = [
        (1, st.integers(-3, 12)),
        (0.5, st.floats()),
        ("x", st.text(max_size=9)),
        (torch.ones(1), any_tensors()),
    ]
    kinds = [strategy for example, strategy in more if allows(hint, example)]
    return st.one_of(st.sampled_from(odd(hint)), *kinds)


def misaligned(x: Tensor) -> Tensor:
    """Zeros like ``x`` at an odd address, as a buffer of somebody else's may have it."""
    count = max(x.numel(), 1)
    buffer = bytearray(count * x.element_size() + 1)
    flat = torch.frombuffer(buffer, dtype=x.dtype, offset=1, count=count)
    return flat.view(x.shape) if x.numel() else flat


INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def wrong_tensors(x: Tensor) -> list[Any]:
    """What no op takes in the place of ``x``."""
    return [
        *(torch.zeros(x.shape, dtype=dtype) for dtype in WRONG_DTYPES if dtype != x.dtype),
        torch.eye(2, dtype=torch.float32).to_sparse(),
        torch.zeros((), dtype=x.dtype).expand(HUGE),
        misaligned(x),
    ]


_FACTORS = [NAN, -1.0, INFINITY, 10**400]
_CHOICES = ["", "ReLU", "real ", "nonsense"]
# What no op takes for an argument of that name, though the annotation does.
WRONG: dict[str, list[Any]] = {
    "bits": [-4, 0, 1, 9, 2**70],
    "eps": [*_FACTORS, -1e-5],
    "beta": [*_FACTORS, 1.0],
    "temperature": [*_FACTORS, 0],
    "exponent": _FACTORS,
    "patience": _FACTORS[:3],
    "factor": _FACTORS,
    "threshold": _FACTORS,
    "minimum": _FACTORS,
    "channel_axis": [7, -9, 2**70],
    "zero_point": _CHOICES,
    "ste": _CHOICES,
    "ema": _CHOICES,
    "activation": _CHOICES,
    "reduction": _CHOICES,
}


def tried(data: st.DataObject, op: Callable[..., Any], good: dict[str, Any], **wrong: list[Any]) -> list[Any]:
    """[the answer] to good arguments; or [], once every wrong value of one of them is refused."""
    flaw = data.draw(st.one_of(st.none(), st.sampled_from(sorted(good))))
    if flaw is None:
        answered, found = attempt(lambda: op(**good), good)
        assert answered, (found, good)
        return [found]
    usual, values = good[flaw], [*wrong.get(flaw, []), *WRONG.get(flaw, [])]
    values += wrong_tensors(usual) if isinstance(usual, Tensor) else []
    if flaw in ("lower", "upper"):  # ends of a range are numbers of any kind
        values = [v for v in values if not (isinstance(v, Tensor) and v.dtype in INTEGERS)]
    for value in [*forbidden(typing.get_type_hints(op)[flaw]), *values]:
        call = {**good, flaw: value}
        answered, _ = attempt(functools.partial(op, **call), call)
        assert not answered, (flaw, call)
    return []
