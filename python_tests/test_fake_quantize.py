"""fake_quantize: bit-equal to the eager formula, gradients, vectors, and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import FORMATS, arrange, covering
from conftest import DTYPES, SHAPES
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import hast_cuda as hc
from hast_cuda.ops import reference


@pytest.mark.parametrize(
    ("bits", "zero_point", "codes", "values"),
    [
        (3, "integer", [-4, -3, -2, -1, 3], [-0.857143, -0.428571, 0, 0.428571, 2.142857]),
        (3, "real", [-4, -2, -2, -1, 3], [-1, -0.142857, -0.142857, 0.285714, 2]),
        (4, "integer", [-8, -4, -3, -1, 7], [-1, -0.2, 0, 0.4, 2]),
    ],
)
def test_known_vectors(device: torch.device, bits: int, zero_point: str, codes: list[int], values: list[float]) -> None:
    x = torch.tensor([-1, -0.3, 0, 0.4, 2], device=device)
    y = hc.fake_quantize(x, -1.0, 2.0, bits, zero_point=zero_point)
    torch.testing.assert_close(y.cpu(), torch.tensor(values), atol=1e-6, rtol=0)
    found = reference.quantize_integers(x, x.min(), x.max(), bits, real_zero_point=zero_point == "real")
    assert found.tolist() == codes


def test_known_activation_vector(device: torch.device) -> None:
    x = torch.tensor([0, 0.2, 0.5, 0.9, 1.7], device=device)
    expected = torch.tensor([0, 0.142857, 0.571429, 0.857143, 1])  # 3.5 rounds half to even: 4
    torch.testing.assert_close(hc.fake_quantize(x, 0.0, 1.0, 3).cpu(), expected, atol=1e-6, rtol=0)


@covering(3, layout=FORMATS, shape=SHAPES, dtype=DTYPES, axis=[None, 0, 1], zero_point=["integer", "real"])
def test_bit_equal_to_eager(
    device: torch.device, layout: str, shape: tuple[int, ...], dtype: torch.dtype, axis: int | None, zero_point: str
) -> None:
    x = arrange((torch.randn(shape, device=device) * 3).to(dtype), layout)
    wide = reference.arithmetic_dtype(dtype)
    count = 1 if axis is None else shape[axis]
    lower, upper = -torch.rand(count), torch.rand(count) * 2
    lower, upper = lower.to(device, wide), upper.to(device, wide)
    for bits, activation in ((2, None), (3, "relu"), (4, "relu6"), (8, None)):
        y = hc.fake_quantize(x, lower, upper, bits, axis, zero_point=zero_point, activation=activation)
        eager = reference.fake_quantize(
            x, lower, upper, bits, axis, real_zero_point=zero_point == "real", activation=activation
        )
        assert y.dtype == dtype
        assert torch.equal(y, eager)


@settings(max_examples=60)
@given(
    values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=70),
    low=st.floats(-(2.0**30), 2.0**30, width=32),
    width=st.floats(0, 2.0**30, width=32),
    bits=st.integers(2, 8),
    zero_point=st.sampled_from(["integer", "real"]),
)
def test_bit_equal_on_any_range(values: list[float], low: float, width: float, bits: int, zero_point: str) -> None:
    x = torch.tensor(values)
    lower = torch.tensor([low])
    upper = torch.maximum(lower + width, lower)
    y = hc.fake_quantize(x, lower, upper, bits, zero_point=zero_point)
    eager = reference.fake_quantize(x, lower, upper, bits, real_zero_point=zero_point == "real")
    assert torch.equal(y.nan_to_num(7.0), eager.nan_to_num(7.0))


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
@pytest.mark.parametrize(
    ("shape", "last"), [((3, 4, 5, 6), torch.channels_last), ((2, 3, 4, 5, 6), torch.channels_last_3d)]
)
def test_any_axis_of_channels_last(
    device: torch.device, shape: tuple[int, ...], last: torch.memory_format, axis: int
) -> None:
    x = torch.randn(shape, device=device).contiguous(memory_format=last)
    lower = -torch.rand(shape[axis], device=device)
    y = hc.fake_quantize(x, lower, lower + 1, 3, axis)
    assert torch.equal(y, reference.fake_quantize(x, lower, lower + 1, 3, axis % x.dim()))
    assert y.is_contiguous(memory_format=last)


def test_nan_and_infinity_pass_as_in_eager(device: torch.device) -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-40], device=device)
    for activation in (None, "relu", "relu6"):
        y = hc.fake_quantize(x, -1.0, 1.0, 4, activation=activation)
        bounds = torch.full((1,), -1.0, device=device), torch.full((1,), 1.0, device=device)
        eager = reference.fake_quantize(x, *bounds, 4, activation=activation)
        assert torch.equal(y.nan_to_num(9.0), eager.nan_to_num(9.0))
        assert bool(y[0].isnan())


def test_constant_range_is_finite(device: torch.device) -> None:
    y = hc.fake_quantize(torch.full((9,), 0.25, device=device), 0.25, 0.25, 4)
    assert bool(torch.isfinite(y).all())


def test_zero_maps_to_zero_and_codes_are_few(device: torch.device) -> None:
    x = torch.randn(4, 999, device=device)
    x[:, 0] = 0
    lower, upper = x.amin(1), x.amax(1)
    for bits in (2, 3, 4, 8):
        y = hc.fake_quantize(x, lower, upper, bits, 0)
        assert bool((y[:, 0] == 0).all())
        assert all(len(row.unique()) <= 2**bits for row in y)
        step = (upper - lower) / (2**bits - 1)
        # a range end that rounds away from the grid can be half a step further off
        assert bool(((y - x).abs() <= 1.0001 * step[:, None]).all())


def test_identity_gradient_passes_everything(device: torch.device) -> None:
    x = torch.randn(5, 7, device=device, requires_grad=True)
    upstream = torch.randn(5, 7, device=device)
    hc.fake_quantize(x, -0.1, 0.1, 3).backward(upstream)
    assert torch.equal(x.grad, upstream)


@covering(layout=FORMATS, dtype=DTYPES, activation=[None, "relu", "relu6"], ste=["identity", "clipped"])
def test_masked_gradient(
    device: torch.device, layout: str, dtype: torch.dtype, activation: str | None, ste: str
) -> None:
    values = (torch.randn(3, 6, 5, 4, device=device) * 4).to(dtype)
    values[0, 0, 0] = torch.tensor([0.0, 6.0, -0.0, 2.0])
    x = arrange(values, layout).requires_grad_()
    upstream = torch.randn(3, 6, 5, 4, device=device).to(dtype)
    hc.fake_quantize(x, -1.0, 2.0, 4, ste=ste, activation=activation).backward(upstream)
    wide = reference.arithmetic_dtype(dtype)
    bounds = (torch.full((1,), v, device=device, dtype=wide) for v in (-1.0, 2.0))
    expected = reference.fake_quantize_backward(
        upstream, x.detach(), *bounds, 4, activation=activation, clipped=ste == "clipped"
    )
    assert torch.equal(x.grad, expected)


def test_relu_gradient_equals_autograd(device: torch.device) -> None:
    for activation, function in (("relu", torch.relu), ("relu6", torch.nn.functional.relu6)):
        x = torch.tensor([-1.0, 0.0, 0.5, 6.0, 7.0], device=device, requires_grad=True)
        hc.fake_quantize(x, 0.0, 6.0, 4, activation=activation).sum().backward()
        twin = x.detach().requires_grad_()
        function(twin).sum().backward()
        assert torch.equal(x.grad, twin.grad)


def test_empty_and_opcheck(device: torch.device) -> None:
    assert hc.fake_quantize(torch.empty(0, 3, device=device), 0.0, 1.0, 4).shape == (0, 3)
    x, low = torch.randn(3, 4, device=device), torch.zeros(1, device=device)
    arguments = (x, low, low + 1, 4, None, False, "relu")
    torch.library.opcheck(torch.ops.hast_cuda.fake_quantize.default, arguments)
    torch.library.opcheck(torch.ops.hast_cuda.fake_quantize_backward.default, (x, *arguments, True))


def test_compiles_without_graph_break() -> None:
    x = torch.randn(4, 8, requires_grad=True)

    def function(t: Tensor) -> Tensor:
        return hc.fake_quantize(t * 2, -1.0, 1.0, 4, activation="relu").sum()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    compiled(x).backward()
    gradient, x.grad = x.grad, None
    function(x).backward()
    assert torch.equal(gradient, x.grad)


X = torch.randn(2, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X, 0.0, 1.0, 1), ValueError, "bits is 1; allowed: 2 to 8"),
        ((X, 0.0, 1.0, 9), ValueError, "bits is 9; allowed: 2 to 8"),
        ((X, 0.0, 1.0, 4.0), TypeError, "bits must be an int from 2 to 8, got 4.0"),
        ((X, 0.0, 1.0, True), TypeError, "bits must be an int"),
        ((X, 1.0, 0.0, 4), ValueError, "lower must not exceed upper; at index 0 lower is 1.0"),
        ((X, float("nan"), 1.0, 4), ValueError, "must be finite; found NaN or infinity"),
        ((X, 0.0, float("inf"), 4), ValueError, "must be finite"),
        ((X, torch.zeros(4), torch.ones(4), 4, 1), ValueError, "lower has 4 values; expected 3"),
        ((X, 0.0, 1.0, 4, 2), ValueError, "channel_axis is 2 but x has 2 dimensions"),
        ((X.long(), 0.0, 1.0, 4), TypeError, "x has dtype torch.int64; allowed: float32"),
        (([1.0], 0.0, 1.0, 4), TypeError, "x must be a torch.Tensor, got list"),
        ((X, X.to("meta")[0, 0], 1.0, 4), ValueError, "lower is on meta but x is on cpu"),
        ({"zero_point": "int"}, ValueError, "zero_point is 'int'; allowed: 'integer', 'real'"),
        ({"ste": "none"}, ValueError, "ste is 'none'; allowed: 'identity', 'clipped'"),
        ({"activation": "gelu"}, ValueError, "activation is 'gelu'; allowed: None, 'relu', 'relu6'"),
    ],
)
def test_refusals(arguments: Any, error: type[Exception], message: str) -> None:
    positional, options = ((X, 0.0, 1.0, 4), arguments) if isinstance(arguments, dict) else (arguments, {})
    with pytest.raises(error, match=message):
        hc.fake_quantize(*positional, **options)
