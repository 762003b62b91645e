"""The plateau op: bit-equal to its eager twin, in place; the rule is in test_schedule.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import refused
from conftest import DTYPES

from hast_cuda.ops import new_plateau_state, plateau_step, reference

RULE = {"patience": 3, "factor": 0.3, "threshold": 1e-3, "minimum": 1e-4}


@pytest.mark.parametrize("dtype", DTYPES)
def test_bit_equal_to_eager(device: torch.device, dtype: torch.dtype) -> None:
    state, rate = new_plateau_state(0.5, device=device)
    twin, twin_rate = new_plateau_state(0.5, device=device)
    losses = (torch.rand(200, device=device) + torch.linspace(1, 0, 200, device=device)).to(dtype)
    losses[30], losses[60] = float("nan"), float("inf")
    for loss in losses:
        plateau_step(state, rate, loss, **RULE)
        reference.plateau_step(twin, twin_rate, loss, **RULE)
        assert torch.equal(state, twin)
        assert torch.equal(rate, twin_rate)
    assert float(rate) == pytest.approx(1e-4)


def test_state_and_rate_change_in_place(device: torch.device) -> None:
    state, rate = new_plateau_state(0.5, device=device)
    assert state.tolist() == [0.5, float("inf"), 0.0]
    views, addresses = state.unbind(), (state.data_ptr(), rate.data_ptr())
    loss = torch.tensor(2.0, device=device, requires_grad=True)
    for _ in range(5):
        plateau_step(state, rate, 1 * loss, **RULE)
    assert [float(v) for v in views] == [pytest.approx(0.15), 2.0, 0.0]
    assert float(rate) == pytest.approx(0.15)
    assert (state.data_ptr(), rate.data_ptr()) == addresses
    assert not state.requires_grad


def test_opcheck(device: torch.device) -> None:
    op = torch.ops.hast_cuda.plateau_step_.default
    state, rate = new_plateau_state(0.5, device=device)
    torch.library.opcheck(op, (state, rate, torch.ones((), device=device), 3, 0.3, 1e-3, 1e-4))


def step(**changed: Any) -> None:
    """One step with some arguments changed."""
    state, rate = new_plateau_state(0.5)
    plateau_step(**{"state": state, "rate": rate, "loss": torch.ones(())} | RULE | changed)


test_refusals = refused(
    (lambda: step(loss=1.0), TypeError, "loss must be a torch.Tensor"),
    (lambda: step(loss=torch.ones((), dtype=torch.int64)), TypeError, "loss has dtype"),
    (lambda: step(loss=torch.ones(1)), ValueError, r"loss has shape \(1,\); expected \(\)"),
    (lambda: step(loss=torch.ones((), device="meta")), ValueError, "state is on cpu but loss"),
    (lambda: step(state=torch.ones(3)), TypeError, "state has dtype torch.float32; allowed"),
    (lambda: step(state=torch.ones(2).double()), ValueError, r"state has shape \(2,\)"),
    (lambda: step(state=torch.ones(6).double()[::2]), ValueError, "contiguous"),
    (lambda: step(rate=torch.ones(()).double()), TypeError, "rate has dtype torch.float64"),
    (lambda: step(rate=torch.ones(1)), ValueError, r"rate has shape \(1,\)"),
    (lambda: step(patience=-1), ValueError, "patience is -1; allowed: 0 or more"),
    (lambda: new_plateau_state(0.0), ValueError, "learning_rate is 0.0; it must be greater than 0"),
)
