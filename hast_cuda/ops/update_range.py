"""The range of an activation as a moving average that stays on the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hast_cuda.checks.values import as_device
from hast_cuda.ops import _layout, _workspace
from hast_cuda.ops._registry import core, launch, operator, pointer
from hast_cuda.ops.activations import CODES, activate
from hast_cuda.ops.arithmetic import arithmetic_dtype

EMA = ("corrected", "released")


def update_range_reference(
    x: Tensor, state: Tensor, *, activation: str | None = None, beta: float = 0.9, released: bool = False
) -> None:
    """One step of the moving average of (min, max); ``state`` is [lower, upper, m_l, m_u, beta^t].

    Corrected form: ``m = beta*m + (1-beta)*v``, range ``m / (1 - beta^t)``. The ``released`` form
    feeds the corrected value back, ``r = (beta*r + (1-beta)*v) / (1 - beta^t)``, as published.
    """
    if x.numel() == 0:
        return
    extremes = torch.stack(torch.aminmax(activate(x.to(arithmetic_dtype(x.dtype)), activation)))
    power = state[4] * beta
    previous = state[0:2] if released else state[2:4]
    average = previous * beta + extremes * (1 - beta)
    corrected = average / (1 - power)
    state[0:2] = corrected
    state[2:4] = corrected if released else average
    state[4] = power


@operator(update_range_reference, lambda: None, mutates=["state"])
def update_range_(x: Tensor, state: Tensor, activation: str | None, beta: float, released: bool) -> None:
    """One step of the moving average, in place; see :func:`update_range_reference`."""
    x = _layout.dense(x)
    place = launch(x)
    count = core.update_range_scratch(size=x.numel(), device=place["device"])
    scratch = _workspace.scratch(x, count, state.dtype)
    core.update_range(
        x=pointer(x),
        state=pointer(state),
        size=x.numel(),
        activation=CODES[activation],
        beta=beta,
        released=released,
        scratch=pointer(scratch),
        counters=_workspace.counters(x, 1),
        **place,
    )


def new_range_state(dtype: torch.dtype = torch.float32, device: Any = None) -> Tensor:
    """Empty range state [lower, upper, m_lower, m_upper, beta^t] = [0, 0, 0, 0, 1].

    Raises:
        TypeError: a dtype other than float32 and float64. ValueError: no such device.

    Example:
        >>> import hast_cuda as hc
        >>> hc.new_range_state()
        tensor([0., 0., 0., 0., 1.])
    """
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dtype is {dtype}; allowed: torch.float32, torch.float64")
    device = None if device is None else as_device(device, meta=True)
    return torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0], dtype=dtype, device=device)
