"""Tensors of more than 2^31 elements, and on a GPU more than 2^32: half types, 4 GiB and more each.

Rows of 4099 numbers repeat: an index that wraps around at 2^31 or 2^32 meets another number.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import hast_cuda as hc
from hast_cuda.ops import new_range_state, reference

pytestmark = pytest.mark.slow
PERIOD = 4099  # a prime
CHUNK = 4096  # rows compared at a time
GIB = 2**30


def free_bytes(device: torch.device) -> int:
    """Memory that can be had without taking it from others."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    (available,) = (line.split()[1] for line in lines if line.startswith("MemAvailable"))
    return 1024 * int(available)


def rows_beyond(limit: int) -> int:
    """Rows of PERIOD elements that are just more than ``limit`` elements."""
    return limit // PERIOD + 5


@pytest.fixture(params=[2**31, 2**32])
def x(device: torch.device, request: pytest.FixtureRequest) -> Iterator[Tensor]:
    """[rows, PERIOD] float16, every row the same numbers from -1 to 1."""
    limit = request.param
    if limit > 2**31 and device.type == "cpu":
        pytest.skip("the larger size is for GPUs: the CPU's indices have one type")
    needed = 2 * 2 * limit + 2 * GIB  # input and output
    if (found := free_bytes(device)) < needed:
        pytest.skip(f"{needed / GIB:.0f} GiB are needed, {found / GIB:.1f} are free")
    made = torch.empty(rows_beyond(limit), PERIOD, dtype=torch.float16, device=device)
    made.copy_(torch.linspace(-1, 1, PERIOD, device=device).half())
    assert made.numel() > limit
    yield made
    del made
    if device.type == "cuda":
        torch.cuda.empty_cache()


def every_row_is(y: Tensor, row: Tensor) -> bool:
    """Compared part by part: a comparison of the whole would take gigabytes more."""
    return all(bool((part == row).all()) for part in y.split(CHUNK))


def test_fake_quantize_one_range(x: Tensor) -> None:
    lower, upper = (torch.tensor(end, device=x.device) for end in (-1.0, 1.0))
    y = hc.fake_quantize(x, lower, upper, 4)
    assert every_row_is(y, reference.fake_quantize(x[0], lower, upper, 4))


def test_fake_quantize_ranges_along_rows(x: Tensor) -> None:
    """Channels side by side, as in channels_last maps."""
    upper = torch.linspace(0.1, 1, PERIOD, device=x.device)
    y = hc.fake_quantize(x, -upper, upper, 4, channel_axis=1)
    assert every_row_is(y, reference.fake_quantize(x[:1], -upper, upper, 4, 1)[0])


def test_fake_quantize_ranges_of_planes(x: Tensor) -> None:
    """A range per row: the last rows lie beyond the limit and have ranges of their own."""
    upper = torch.full((len(x),), 1.0, device=x.device)
    upper[-3:] = 0.5
    y = hc.fake_quantize(x, -upper, upper, 4, channel_axis=0)
    ends = [torch.tensor([end], device=x.device) for end in (1.0, 0.5)]
    wide, narrow = (reference.fake_quantize(x[0], -end, end, 4) for end in ends)
    assert every_row_is(y[:-3], wide)
    assert every_row_is(y[-3:], narrow)
    assert not torch.equal(wide, narrow)


def test_gradient_of_a_clipped_range(x: Tensor) -> None:
    leaf = x.requires_grad_()
    end = torch.tensor(0.5, device=x.device)
    y = hc.fake_quantize(leaf, -end, end, 4, ste="clipped")
    (gradient,) = torch.autograd.grad(y, leaf, y.detach())
    expected = reference.fake_quantize_backward(y[0].detach(), x[0].detach(), -end, end, 4, clipped=True)
    assert every_row_is(gradient, expected)


def test_range_tracking_sees_the_last_element(x: Tensor) -> None:
    x[-1, -1], x[-1, -2] = 7.0, -9.0
    state = new_range_state(device=x.device)
    hc.ops.update_range.update_range_(x, state, None, 0.0, False)
    assert state[:2].tolist() == [-9.0, 7.0]


def test_weights_of_one_layer(x: Tensor) -> None:
    x[-1] *= 0.5
    (y,) = hc.fake_quantize_weights([x], 4)
    first, last = reference.fake_quantize_weights([x[:1], x[-1:]], [4, 4])
    assert every_row_is(y[:-1], first[0])
    assert torch.equal(y[-1], last[0])


@pytest.mark.parametrize("side_by_side", [True, False])
def test_statistics(x: Tensor, side_by_side: bool) -> None:
    """A channel per column, or two planes of which the second ends beyond the limit."""
    if side_by_side:
        maps, channels = x, PERIOD
        expected = x[0].float()
    else:
        maps, channels = x[: len(x) // 2 * 2].view(1, 2, -1), 2
        maps[0, 1] += 1
        expected = torch.tensor([0.0, 1.0], device=x.device)
    zeros = torch.zeros(channels, device=x.device)
    y, mean, var = hc.batch_norm_match(maps, zeros, zeros + 1, eps=0.0)
    torch.testing.assert_close(mean, expected, rtol=1e-3, atol=1e-3)
    if side_by_side:
        assert float(var.max()) < 1e-6
        assert every_row_is(y, x[0])
    else:
        exact = x[0].double().var(correction=0)
        torch.testing.assert_close(var.double(), exact.expand(2), rtol=1e-2, atol=0)
        assert torch.equal(y[0, 1, -PERIOD:], maps[0, 1, -PERIOD:])


@pytest.mark.parametrize("planes", [2, 4])
def test_energies(x: Tensor, planes: int) -> None:
    rows = len(x) // planes * planes
    maps = x[:rows].view(1, planes, -1)
    (energy,) = hc.channel_attention(maps)
    exact = x[0].double().square().sum() * (rows // planes)
    torch.testing.assert_close(energy.double(), exact.expand(planes), rtol=1e-3, atol=0)
