"""The plateau rule for the learning rate as one op that changes its state on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from hast_cuda.checks import tensors as _checks
from hast_cuda.checks.values import as_device, check_whole
from hast_cuda.ops._registry import core, launch, operator, pointer


def plateau_step_reference(
    state: Tensor, rate: Tensor, loss: Tensor, patience: int, factor: float, threshold: float, minimum: float
) -> None:
    """One step of torch's ReduceLROnPlateau; ``state`` is float64 [learning rate, best, bad]."""
    learning_rate, best, bad = state.clone()
    current = loss.double()
    better = current < best * (1 - threshold)
    bad = torch.where(better, 0.0, bad + 1)
    stalled = bad > patience
    lower = (learning_rate * factor).clamp(min=minimum)
    change = stalled & (learning_rate - lower > 1e-8)
    state[0] = torch.where(change, lower, learning_rate)
    state[1] = torch.where(better, current, best)
    state[2] = torch.where(stalled, 0.0, bad)
    rate.copy_(state[0])


@operator(plateau_step_reference, lambda: None, mutates=["state", "rate"])
def _plateau_step_(
    state: Tensor, rate: Tensor, loss: Tensor, patience: int, factor: float, threshold: float, minimum: float
) -> None:
    core.plateau_step(
        state=pointer(state),
        rate=pointer(rate),
        loss=pointer(loss),
        patience=patience,
        factor=factor,
        threshold=threshold,
        minimum=minimum,
        **launch(loss),
    )


def new_plateau_state(learning_rate: float, *, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """(state, rate) for :func:`plateau_step`.

    Returns:
        float64 [3]: learning rate, best loss (infinity), steps in a row that were not better (0);
        and the learning rate as 0-d float32, which an optimizer may hold.

    Raises:
        TypeError, ValueError: learning_rate is no number above 0; no such device.

    Example:
        >>> new_plateau_state(0.5)
        (tensor([0.5000,    inf, 0.0000], dtype=torch.float64), tensor(0.5000))
    """
    _checks.positive("learning_rate", learning_rate)
    device = as_device(device, meta=True)
    state = torch.tensor([learning_rate, float("inf"), 0.0], dtype=torch.float64, device=device)
    return state, state[0].float()


def plateau_step(
    state: Tensor, rate: Tensor, loss: Tensor, *, patience: int, factor: float, threshold: float, minimum: float
) -> None:
    """One step of ``ReduceLROnPlateau`` (mode min, relative threshold), in place, in one launch.

    Better means ``loss < best * (1 - threshold)``; NaN is not better. After more than ``patience``
    steps in a row that are not: ``lr <- max(lr * factor, minimum)`` if that lowers it by over 1e-8.

    Args:
        state: float64 [3] of :func:`new_plateau_state`, changed in place.
        rate: float32, 0-d, set to the learning rate.
        loss: 0-d, floating point; no gradient flows.
        patience: >= 0.
        factor: of the learning rate.
        threshold: relative.
        minimum: of the learning rate.

    Raises:
        TypeError: wrong dtype. ValueError: shapes or devices that do not fit, patience < 0.

    Example:
        >>> state, rate = hc.ops.new_plateau_state(0.5)
        >>> for loss in (2.0, 3.0):
        ...     plateau_step(state, rate, torch.tensor(loss), patience=0, factor=0.5, threshold=0.0, minimum=0.0)
        >>> rate
        tensor(0.2500)
    """
    _checks.floating("loss", loss)
    for name, tensor, dtype, shape in (
        ("state", state, torch.float64, (3,)),
        ("rate", rate, torch.float32, ()),
        ("loss", loss, loss.dtype, ()),
    ):
        _checks.tensor(name, tensor)
        if tensor.dtype != dtype:
            raise TypeError(f"{name} has dtype {tensor.dtype}; allowed: {dtype}")
        if tensor.shape != shape or not tensor.is_contiguous():
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {shape}, contiguous")
        _checks.same_device(name, tensor, "loss", loss)
    check_whole("patience", patience)
    for name, value in (("patience", patience), ("factor", factor), ("threshold", threshold), ("minimum", minimum)):
        _checks.not_negative(name, value)
    _plateau_step_(state, rate, loss.detach(), patience, factor, threshold, minimum)
