"""BatchNorm ops at the edge: no variance, huge and denormal ones, one value, constant images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import DTYPES
from torch import Tensor

import hast_cuda as hc
from hast_cuda.merged import BatchStatistics
from hast_cuda.ops import new_range_state, reference

# running_var of one channel each: 0, denormal, tiny, ordinary, huge.
VARIANCES = [0.0, 1e-40, 1e-12, 1.0, 1e12, 1e18]
CHANNELS = len(VARIANCES)


def parameters(device: torch.device, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """running_mean, running_var, weight, bias."""
    means = torch.linspace(-1, 1, CHANNELS, dtype=dtype)
    variances = torch.tensor(VARIANCES, dtype=dtype)
    weight, bias = torch.linspace(0.5, 2, CHANNELS, dtype=dtype), torch.zeros(CHANNELS, dtype=dtype)
    return [t.to(device) for t in (means, variances, weight, bias)]


def results(op: Callable[..., Any], x: Tensor, *rest: Any, **options: Any) -> tuple[list[Tensor], Tensor]:
    """Outputs, and the gradient of the sum of all of them."""
    leaf = x.detach().clone().requires_grad_()
    outputs = [o for o in op(leaf, *rest, **options) if o is not None]
    (gradient,) = torch.autograd.grad([o.double().sum() for o in outputs], leaf)
    return [o.detach() for o in outputs], gradient


def close(ours: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    """To a few roundings of the type, relative to the largest value of the channel."""
    scale = exact.abs().amax([d for d in range(exact.dim()) if d != 1], True)
    info = torch.finfo(dtype)
    assert bool(ours.isfinite().all())
    error = (ours.double() - exact).abs()
    assert bool((error <= 8 * info.eps * scale + info.eps * info.smallest_normal).all())


@pytest.mark.parametrize("shape", [(3, CHANNELS, 5, 7), (1, CHANNELS, 1, 1), (4, CHANNELS)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_variance_from_0_on(device: torch.device, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = (2 * torch.randn(shape, device=device)).to(dtype)
    given = parameters(device, reference.arithmetic_dtype(dtype))
    exact = [t.double() for t in given]
    ours, gradient = results(hc.batch_norm_match, x, *given, 1e-5)
    oracle, exact_gradient = results(reference.batch_norm_match, x.double(), *exact, 1e-5)
    assert all(bool(t.isfinite().all()) for t in (*ours, gradient))
    close(ours[0], oracle[0], dtype)
    close(gradient, exact_gradient, dtype)
    wide = reference.arithmetic_dtype(dtype)
    torch.testing.assert_close(ours[1].double(), oracle[1], rtol=0, atol=20 * torch.finfo(wide).eps)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_large_values_of_narrow_types(device: torch.device, dtype: torch.dtype) -> None:
    # Their squares are far outside of float16, and sums of them near the end of float32.
    largest = min(torch.finfo(dtype).max, 1e18)
    signs = torch.where(torch.rand(2, 3, 16, 16, device=device) < 0.5, -1.0, 1.0)
    x = (signs * largest).to(dtype)
    zeros, ones = torch.zeros(3, device=device), torch.ones(3, device=device)
    _, mean, var = hc.batch_norm_match(x, zeros, ones)
    wide = x.double()
    torch.testing.assert_close(var.double(), wide.var((0, 2, 3), correction=0), rtol=1e-5, atol=0)
    torch.testing.assert_close(mean.double(), wide.mean((0, 2, 3)), rtol=0, atol=1e-5 * float(wide.abs().max()))
    scaled = hc.batch_norm_match(x, zeros, (ones * largest) ** 2)[0]  # variances of float32
    assert float((scaled.double().abs() - 1).abs().max()) <= 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("offset", [0.0, 0.1, -3.7, 1000.0])
@pytest.mark.parametrize("shape", [(1, 2, 1, 1), (5, 2, 1, 1), (2, 2, 33, 17), (1, 2, 64, 64)])
def test_constant_images_have_no_variance(device: torch.device, shape: tuple[int, ...], offset: float) -> None:
    """One value per channel included: the variance is biased, so nothing is divided by n - 1."""
    mean = torch.tensor([0.25, -1.0], device=device)
    x = (mean + offset).reshape(1, 2, 1, 1).expand(shape).contiguous()
    (_, found, var), gradient = results(hc.batch_norm_match, x, mean, torch.ones_like(mean))
    assert bool((var >= 0).all())
    # Rounding of the sums of float32: equal numbers are rounded to the same side again and again.
    assert float(var.max()) <= 4e-6 * offset**2
    torch.testing.assert_close(found, mean + offset, rtol=1e-6, atol=1e-7)
    assert bool(gradient.isfinite().all())


def test_a_dead_channel_is_its_bias(device: torch.device) -> None:
    x = torch.randn(2, 2, 4, 4, device=device)
    x[:, 0] = 0
    zeros = torch.zeros(2, device=device)
    weight, bias = torch.ones(2, device=device), torch.tensor([0.5, 0.0], device=device)
    state = new_range_state(device=device)
    state[1] = 1.5  # steps of 0.1: 0.5 is a code
    y, energy = hc.batch_norm_activation(x, zeros, zeros, weight, bias, activation="relu", state=state, energy=True)
    assert bool(y.isfinite().all())
    torch.testing.assert_close(y[:, 0], torch.full_like(y[:, 0], 0.5))
    torch.testing.assert_close(energy[:, 0], torch.full_like(energy[:, 0], 16 * 0.25))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_energies_are_sums_of_float32(device: torch.device, dtype: torch.dtype) -> None:
    largest = min(torch.finfo(dtype).max, 1e17)
    x = torch.full((2, 3, 16, 16), largest, device=device, dtype=dtype)
    zeros, ones = torch.zeros(3, device=device), torch.ones(3, device=device)
    exact = x.double().square().flatten(2).sum(2)
    _, energy = hc.batch_norm_activation(x, zeros, ones, energy=True, eps=0.0)
    torch.testing.assert_close(energy.double(), exact, rtol=1e-5, atol=0)
    torch.testing.assert_close(hc.channel_attention(x).double(), exact, rtol=1e-5, atol=0)


def test_no_variance_and_no_eps_is_infinite_as_in_eager(device: torch.device) -> None:
    x = torch.tensor([[1.0, 1.0], [0.0, -2.0]], device=device)
    zeros = torch.zeros(2, device=device)
    y = hc.batch_norm_match(x, zeros, zeros, eps=0.0)[0]
    eager = reference.batch_norm_match(x, zeros, zeros, None, None, 0.0)[0]
    assert torch.equal(y.nan_to_num(9.0), eager.nan_to_num(9.0))
    assert not y.isfinite().any()


BROKEN: list[tuple[str, int, float, str]] = [
    ("running_var", 3, -1e-3, r"running_var of '1' is -0\.001.* in channel 3; .* between 0\.0"),
    ("running_var", 0, float("nan"), r"running_var of '1' is nan in channel 0"),
    ("running_var", 2, float("inf"), r"running_var of '1' is inf in channel 2"),
    ("running_mean", 1, -1e30, r"running_mean of '1' is -1\.0.*e\+30 in channel 1"),
]


@pytest.mark.parametrize(("buffer", "channel", "value", "message"), BROKEN)
def test_statistics_that_cannot_be_matched_are_named(buffer: str, channel: int, value: float, message: str) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).eval()
    getattr(network[1], buffer)[channel] = value
    with pytest.raises(ValueError, match=message):
        BatchStatistics(network)
