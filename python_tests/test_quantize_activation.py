"""Activation ranges tracked on the device, and activations quantized on them."""

from __future__ import annotations

import pytest
import torch
from cases import FORMATS, arrange, covering, refused
from conftest import DTYPES, SHAPES

import hast_cuda as hc
from hast_cuda.ops import reference


@covering(layout=FORMATS, shape=SHAPES, dtype=DTYPES, ema=["corrected", "released"])
def test_range_tracking_equals_eager(
    device: torch.device, layout: str, shape: tuple[int, ...], dtype: torch.dtype, ema: str
) -> None:
    wide = reference.arithmetic_dtype(dtype)
    state, twin = (hc.new_range_state(wide, device) for _ in range(2))
    for activation in (None, "relu", "relu6"):
        for _ in range(3):
            x = arrange((torch.randn(shape, device=device) * 3).to(dtype), layout)
            y = hc.quantize_activation(x, state, 4, activation=activation, observe=True, ema=ema)
            reference.update_range(x, twin, activation=activation, released=ema == "released")
            torch.testing.assert_close(state, twin, rtol=1e-6, atol=1e-7)
            expected = reference.fake_quantize(x, state[0:1], state[1:2], 4, activation=activation)
            assert torch.equal(y, expected)


@pytest.mark.parametrize("size", [1, 3, 1000, 70_001, 1_000_003])
def test_range_of_long_tensors(device: torch.device, size: int) -> None:
    x = torch.randn(size, device=device)
    x[size // 2], x[-1] = 50.0, -40.0
    state = hc.new_range_state(device=device)
    hc.quantize_activation(x, state, 4, observe=True)
    assert float(state[0]) == pytest.approx(-40.0, rel=1e-6)
    assert float(state[1]) == pytest.approx(float(x.max()), rel=1e-6)


def test_ema_vectors(device: torch.device) -> None:
    one = torch.ones(8, device=device)
    corrected, released = (hc.new_range_state(torch.float64, device) for _ in range(2))
    seen = []
    for _ in range(5):
        hc.quantize_activation(one.double(), corrected, 4, observe=True)
        hc.quantize_activation(one.double(), released, 4, observe=True, ema="released")
        assert float(corrected[1]) == pytest.approx(1.0, abs=1e-12)
        seen.append(float(released[1]))
    assert seen == pytest.approx([1, 5.263158, 17.8481, 47.0, 103.5385], rel=1e-5)


def test_released_ema_settles_after_many_updates(device: torch.device) -> None:
    state = hc.new_range_state(torch.float64, device)
    for _ in range(800):
        hc.quantize_activation(
            torch.ones(4, dtype=torch.float64, device=device), state, 4, observe=True, ema="released"
        )
    assert float(state[1]) == pytest.approx(1.0, abs=1e-9)


def test_nan_reaches_the_range_as_in_eager(device: torch.device) -> None:
    x = torch.randn(5000, device=device)
    x[1234] = float("nan")
    state = hc.new_range_state(device=device)
    hc.quantize_activation(x, state, 4, observe=True)
    assert bool(state[:2].isnan().all())


def test_frozen_range_never_moves(device: torch.device) -> None:
    state = hc.new_range_state(device=device)
    hc.quantize_activation(torch.rand(64, device=device), state, 4, observe=True)
    before = state.clone()
    hc.quantize_activation(100 * torch.rand(64, device=device), state, 4)
    assert torch.equal(state, before)


def test_clipped_gradient_uses_the_range_of_its_own_call(device: torch.device) -> None:
    state = hc.new_range_state(device=device)
    x = torch.tensor([-3.0, 0.0, 1.0], device=device, requires_grad=True)
    y = hc.quantize_activation(x, state, 4, observe=True, ste="clipped")
    hc.quantize_activation(100 * torch.ones(3, device=device), state, 4, observe=True)
    y.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 1.0]


def test_same_bits_twice(device: torch.device) -> None:
    x = torch.randn(64, 16, 33, 31, device=device)
    states = [hc.new_range_state(device=device) for _ in range(2)]
    first, second = (hc.quantize_activation(x, s, 3, observe=True) for s in states)
    assert torch.equal(first, second)
    assert torch.equal(states[0], states[1])


def test_opcheck(device: torch.device) -> None:
    x, state = torch.randn(5, 7, device=device), hc.new_range_state(device=device)
    op = torch.ops.hast_cuda.update_range_.default
    torch.library.opcheck(op, (x, state, "relu", 0.9, False))


STATE = hc.new_range_state()
X = torch.randn(4)


test_refusals = refused(
    (lambda: hc.quantize_activation(X, STATE[:4], 4), ValueError, r"state is \(4,\)"),
    (lambda: hc.quantize_activation(X.double(), STATE, 4), ValueError, "float64"),
    (lambda: hc.quantize_activation(X, STATE, 4, beta=1.0), ValueError, "beta is 1.0"),
    (lambda: hc.quantize_activation(X, STATE, 4, ema="x"), ValueError, "ema is 'x'; allowed"),
    (lambda: hc.quantize_activation(X, STATE, 0), ValueError, "bits is 0"),
)
