"""Inputs that kernels get wrong: odd layouts, unaligned views, non-contiguous tensors."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import combinations, product
from typing import Any

import pytest
import torch
from torch import Tensor

FORMATS = ["contiguous", "channels_last", "transposed", "unaligned"]


def arrange(x: Tensor, layout: str) -> Tensor:
    """The values of ``x`` in another memory layout."""
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "unaligned":
        buffer = torch.empty(x.numel() + 1, dtype=x.dtype, device=x.device)
        buffer[1:] = x.flatten()
        return buffer[1:].view(x.shape)
    return x.contiguous()


def check_close(actual: Tensor, eager: Tensor, oracle: Tensor, atol: float = 1e-6) -> None:
    """The kernel is at most twice as far from the float64 oracle as eager, plus ``atol``."""
    error = (actual.double() - oracle).abs().max()
    allowed = 2 * (eager.double() - oracle).abs().max() + atol * (1 + oracle.abs().max())
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"


def covering(strength: int = 2, /, **axes: Sequence[Any]) -> pytest.MarkDecorator:
    """Parametrize so that any ``strength`` values of different axes meet; all other cases are slow.

    What makes a kernel wrong is one value, or two that meet: a dtype in a layout, a shape in a
    branch. The whole product repeats each such meeting dozens of times.
    """
    cases = list(product(*axes.values()))
    places = list(combinations(range(len(axes)), min(strength, len(axes))))
    met: set[Any] = set()
    fast: set[int] = set()
    for least in (len(places) // 2, 0):  # first the cases in which most is new
        for index in random.Random(0).sample(range(len(cases)), len(cases)):
            new = {(at, *(str(cases[index][i]) for i in at)) for at in places} - met
            if len(new) > least:
                fast.add(index)
                met |= new
    parameters = [
        pytest.param(*case, marks=[] if index in fast else [pytest.mark.slow], id="-".join(map(str, case)))
        for index, case in enumerate(cases)
    ]
    return pytest.mark.parametrize(list(axes), parameters)


def refused(*refusals: tuple[Callable[[], object], type[Exception], str]) -> Callable[..., None]:
    """A test: each of the calls raises its error with a message that matches."""

    @pytest.mark.parametrize(("call", "error", "message"), refusals)
    def test(call: Callable[[], object], error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            call()

    return test
