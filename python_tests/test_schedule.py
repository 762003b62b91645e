"""Device-side schedules: torch's plateau rule step for step, cosine ends, and no host read."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import ReduceLROnPlateau

from hast_cuda.synthesis.schedule import CosineSchedule, PlateauSchedule

NAN, INF = float("nan"), float("inf")


def torch_rates(losses: list[float], learning_rate: float, patience: int) -> list[float]:
    """Learning rates of torch's own scheduler after each loss."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=learning_rate)
    scheduler = ReduceLROnPlateau(optimizer, min_lr=1e-4, patience=patience)
    rates = []
    for loss in losses:
        scheduler.step(loss)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def our_rates(losses: list[float], learning_rate: float, patience: int, device: Any = "cpu") -> list[float]:
    """The same of ours, all read at the end."""
    schedule = PlateauSchedule(learning_rate, patience=patience, device=device)
    rates = []
    for loss in torch.tensor(losses, dtype=torch.float64, device=device):
        schedule.step(loss)
        rates.append(schedule.learning_rate.clone())
    return torch.stack(rates).tolist()


def noisy(kind: str, count: int = 1200) -> list[float]:
    """A long loss sequence."""
    t = torch.arange(count, dtype=torch.float64)
    noise = torch.randn(count, dtype=torch.float64)
    return {
        "decay": torch.exp(-t / 200) * 5 + 0.05 * noise,
        "walk": noise.cumsum(0),
        "constant": torch.full((count,), 2.0, dtype=torch.float64),
        "falling": 1 / (1 + t),
        "just better": (1 - 1.0001e-4) ** t,
        "not quite better": (1 - 0.9999e-4) ** t,
        "zero": torch.zeros(count, dtype=torch.float64),
    }[kind].tolist()


@pytest.mark.parametrize("kind", ["decay", "walk", "constant", "falling", "just better", "not quite better", "zero"])
@pytest.mark.parametrize("patience", [0, 1, 10, 50])
def test_equals_torch_on_long_sequences(device: torch.device, kind: str, patience: int) -> None:
    losses = noisy(kind)
    assert our_rates(losses, 0.5, patience, device) == torch_rates(losses, 0.5, patience)


@pytest.mark.parametrize(
    "losses",
    [
        [NAN] * 30,
        [1.0, NAN, 0.5, NAN, NAN, NAN, 0.4, *[INF] * 9, 0.1],
        [-1.0, -1.0001, -1.00011, -2.0, *[-2.0] * 12],
        [-INF, *[-INF] * 9],
        [INF] * 9,
        [1.0, 1.0 - 1e-4, 0.9999, 0.99980001, 0.9998, *[0.9998] * 9],
        [5e-324, 0.0, -5e-324, *[0.0] * 9],
    ],
)
@pytest.mark.parametrize("patience", [0, 1, 2, 3])
def test_equals_torch_on_adversarial_sequences(device: torch.device, losses: list[float], patience: int) -> None:
    assert our_rates(losses, 0.25, patience, device) == torch_rates(losses, 0.25, patience)


@pytest.mark.parametrize("learning_rate", [1e-4 + 5e-9, 1e-4 + 2e-8, 1e-4, 1e-5])
def test_a_change_too_small_to_matter_is_left_out(device: torch.device, learning_rate: float) -> None:
    expected = torch_rates([1.0] * 6, learning_rate, 1)
    assert our_rates([1.0] * 6, learning_rate, 1, device) == expected


@settings(max_examples=40)
@given(
    losses=st.lists(
        st.one_of(st.floats(width=32), st.sampled_from([1.0, 0.9999, 0.99995, 0.5])), min_size=1, max_size=150
    ),
    patience=st.integers(0, 60),
    learning_rate=st.floats(1e-4, 10),
)
def test_equals_torch_on_anything(losses: list[float], patience: int, learning_rate: float) -> None:
    expected = torch_rates(losses, learning_rate, patience)
    assert our_rates(losses, learning_rate, patience) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_losses_of_any_dtype(device: torch.device, dtype: torch.dtype) -> None:
    losses = torch.tensor([3.0, 2.9, 2.89, 2.9, 2.9, 2.9], dtype=dtype, device=device)
    schedule, rates = PlateauSchedule(0.5, patience=1, device=device), []
    for loss in losses:
        schedule.step(loss)
        rates.append(float(schedule.learning_rate))
    assert rates == torch_rates(losses.tolist(), 0.5, 1)


@pytest.mark.parametrize("iterations", [1, 2, 7, 1000])
def test_cosine_ends_and_middle(device: torch.device, iterations: int) -> None:
    schedule, rates = CosineSchedule(0.5, iterations, minimum=1e-3, device=device), []
    assert float(schedule.learning_rate) == 0.5
    for _ in range(iterations):
        schedule.step(torch.tensor(NAN, device=device))  # the loss does not matter
        rates.append(float(schedule.learning_rate))
    assert rates[-1] == pytest.approx(1e-3, rel=1e-9)
    expected = [1e-3 + 0.499 * (1 + math.cos(math.pi * t / iterations)) / 2 for t in range(1, iterations + 1)]
    assert rates == pytest.approx(expected, rel=1e-9)
    assert all(a > b for a, b in zip([0.5, *rates], rates, strict=False))


def test_state_stays_in_place(device: torch.device) -> None:
    """An optimizer or a CUDA graph may hold the tensor: its storage must not change."""
    for schedule in (PlateauSchedule(0.5, patience=0, device=device), CosineSchedule(0.5, 9, device=device)):
        rate, address = schedule.learning_rate, schedule.learning_rate.data_ptr()
        before = float(rate)
        for _ in range(3):
            schedule.step(torch.ones((), device=device))
        assert schedule.learning_rate is rate
        assert rate.data_ptr() == address
        assert float(rate) < before
