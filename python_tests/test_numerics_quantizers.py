"""Quantizers at the edge of their numbers: ranges of one sign, of no width, far from 0, huge."""

from __future__ import annotations

import pytest
import torch
from cases import refused
from conftest import DTYPES
from torch import Tensor

import hast_cuda as hc
from hast_cuda.ops import new_range_state, reference

BITS = [2, 3, 8]
ONE_SIGN = [(3.0, 7.0), (-7.0, -3.0), (1e-3, 2e-3), (-6e4, -5e4), (1e6, 1e6 + 1), (-1e-9, -1e-10)]
# Output channels of one weight tensor, [channels, 6].
CHANNELS = {
    "zero": [0.0] * 6,
    "constant": [0.75] * 6,
    "constant negative": [-3.0] * 6,
    "largest half": [65504.0] * 6,
    "positive": [0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
    "negative": [-1.0, -0.9, -0.8, -0.7, -0.6, -0.5],
    "one weight": [0.0, 0.0, 0.0, 0.25, 0.0, 0.0],
    "narrow and far": [100.0, 100.0, 100.125, 100.0, 100.125, 100.0],
    "below the floor": [1e-9, -1e-9, 5e-10, 0.0, 1e-9, -1e-9],
    "denormal": [1e-40, -1e-40, 0.0, 1e-40, 0.0, 0.0],
}


def precision(dtype: torch.dtype) -> float:
    """Relative rounding of the arithmetic."""
    return float(torch.finfo(reference.arithmetic_dtype(dtype)).eps)


def same(ours: Tensor, eager: Tensor) -> bool:
    """Bit by bit; NaN equals NaN."""
    return torch.equal(ours.isnan(), eager.isnan()) and torch.equal(
        ours.nan_to_num(7.0, torch.inf, -torch.inf), eager.nan_to_num(7.0, torch.inf, -torch.inf)
    )


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("ends", ONE_SIGN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_range_without_zero_costs_half_a_step(
    device: torch.device, dtype: torch.dtype, ends: tuple[float, float], bits: int
) -> None:
    lower, upper = (torch.tensor(end, dtype=dtype, device=device) for end in ends)
    x = lower + (upper - lower) * torch.linspace(0, 1, 1001, dtype=dtype, device=device)
    y = hc.fake_quantize(x, lower, upper, bits)
    assert same(y, reference.fake_quantize(x, lower, upper, bits))
    step = max(float(upper - lower), reference.RANGE_FLOOR) / (2**bits - 1)
    allowed = step / 2 + 6 * precision(dtype) * max(map(abs, ends))
    assert float((y.double() - x.double()).abs().max()) <= allowed
    if float(upper - lower) < reference.RANGE_FLOOR:
        return  # the grid is as wide as the floor, and may reach 0
    nearest = lower if ends[0] > 0 else upper
    zero = hc.fake_quantize(torch.zeros(3, dtype=dtype, device=device), lower, upper, bits)
    assert float((zero - nearest).abs().max()) <= allowed  # 0 itself is outside of the range


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_degenerate_channels_keep_their_value(device: torch.device, dtype: torch.dtype, bits: int) -> None:
    weight = torch.tensor(list(CHANNELS.values()), dtype=torch.float64).to(device, dtype)
    (y,) = hc.fake_quantize_weights([weight], bits)
    assert same(y, reference.fake_quantize_weights([weight], [bits])[0])
    width = (weight.double().amax(1) - weight.double().amin(1)).clamp(min=reference.RANGE_FLOOR)
    largest = weight.double().abs().amax(1)
    storage = torch.finfo(dtype).eps if dtype.itemsize == 2 else 0.0
    allowed = width / (2**bits - 1) / 2 + (6 * precision(dtype) + storage) * largest
    error = (y.double() - weight.double()).abs().amax(1)
    for name, found, bound in zip(CHANNELS, error.tolist(), allowed.tolist(), strict=True):
        assert found <= bound, name
    rows = dict(zip(CHANNELS, y.tolist(), strict=True))
    assert rows["zero"] == [0.0] * 6
    if dtype.itemsize == 2:
        for name in ("constant", "constant negative", "largest half"):
            assert rows[name] == weight[list(CHANNELS).index(name)].tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dead_activation_stays_zero(device: torch.device, dtype: torch.dtype) -> None:
    wide = reference.arithmetic_dtype(dtype)
    state = new_range_state(dtype=wide, device=device)
    below = -torch.rand(2, 3, 4, 4, device=device).to(dtype).requires_grad_()
    for _ in range(3):
        y = hc.quantize_activation(below, state, 4, activation="relu", observe=True)
    assert state[:2].tolist() == [0.0, 0.0]
    assert y.tolist() == torch.zeros_like(y).tolist()
    (gradient,) = torch.autograd.grad(y.sum(), below)
    assert not gradient.any()
    # Frozen at nothing, it gives 0 for whatever comes later: within the floor of the range.
    later = torch.rand(2, 3, 4, 4, device=device).to(dtype)
    frozen = hc.quantize_activation(later, state, 4, activation="relu", observe=False)
    assert float(frozen.abs().max()) <= 1.01 * reference.RANGE_FLOOR


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_up_to_their_largest_number(device: torch.device, dtype: torch.dtype, bits: int) -> None:
    largest = torch.finfo(dtype).max
    x = (torch.linspace(-1, 1, 333, dtype=torch.float64) * largest).to(device, dtype)
    lower, upper = torch.zeros((), device=device), torch.tensor(float(largest), device=device)
    y = hc.fake_quantize(x, lower, upper, bits)
    assert same(y, reference.fake_quantize(x, lower, upper, bits))
    assert bool(y.isfinite().all())  # sums and products were float32
    state = new_range_state(device=device)
    hc.quantize_activation(x, state, bits, observe=True, beta=0.0)
    assert state[:2].tolist() == [-largest, largest]


def test_what_a_half_type_cannot_hold_is_infinite_as_in_eager(device: torch.device) -> None:
    # The integer zero point moves the grid by up to half a step, here beyond 65504.
    x = torch.tensor([60000.0, 65504.0], device=device, dtype=torch.float16)
    lower, upper = torch.tensor(60000.0, device=device), torch.tensor(65504.0, device=device)
    y = hc.fake_quantize(x, lower, upper, 2)
    assert same(y, reference.fake_quantize(x, lower, upper, 2))
    assert y.isinf().tolist() == [False, True]
    assert bool(hc.fake_quantize(x.float(), lower, upper, 2).isfinite().all())


test_ranges_that_cannot_be_computed_with_are_refused = refused(
    (
        lambda: hc.fake_quantize(torch.ones(3), -3e38, 3e38, 4),
        ValueError,
        r"upper - lower is beyond the largest number of torch.float32",
    ),
    (lambda: hc.FakeQuantActivation(4).set_range(-2e38, 2e38), ValueError, "beyond the largest number"),
    # float32(beta) is 1, and the corrected average 0 / 0
    (lambda: hc.FakeQuantActivation(4, beta=1 - 2.0**-26), ValueError, r"beta is 0\.99.*in float32"),
    (
        lambda: hc.quantize_activation(torch.ones(3), new_range_state(), 4, beta=0.99999999),
        ValueError,
        "beta is 0.99999999; allowed",
    ),
)


def test_the_largest_decay_is_one_that_works(device: torch.device) -> None:
    state = new_range_state(device=device)
    x = torch.tensor([-2.0, 5.0], device=device)
    hc.quantize_activation(x, state, 4, observe=True, beta=1 - 2.0**-24)
    assert state[:2].tolist() == [-2.0, 5.0]
