"""Weights quantized in one call."""

from __future__ import annotations

import pytest
import torch
from cases import refused
from conftest import DTYPES
from torch import Tensor

import hast_cuda as hc
from hast_cuda.ops import reference

WEIGHTS = [(16, 3, 3, 3), (5, 7), (1, 1, 1, 1), (64, 64, 3, 3), (10, 64), (33, 1, 5, 5), (3, 2049)]


def mixed_weights(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """All shapes, the last one in channels_last."""
    weights = [torch.randn(s, device=device).to(dtype) for s in WEIGHTS]
    last = torch.randn(8, 4, 3, 3, device=device)
    return [*weights, last.to(dtype, memory_format=torch.channels_last)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zero_point", ["integer", "real"])
def test_weights_bit_equal_to_eager(device: torch.device, dtype: torch.dtype, zero_point: str) -> None:
    weights = mixed_weights(device, dtype)
    weights[1][2] = 0.75  # a constant channel
    bits = [2 + i % 7 for i in range(len(weights))]
    outputs = hc.fake_quantize_weights(weights, bits, zero_point=zero_point)
    eager = reference.fake_quantize_weights(weights, bits, real_zero_point=zero_point == "real")
    for y, expected, weight in zip(outputs, eager, weights, strict=True):
        assert y.dtype == dtype
        assert y.stride() == weight.stride()
        assert torch.equal(y, expected)


def grids_of(weights: list[Tensor]) -> list[Tensor | None]:
    """A grid that does not follow the weights for two of three, a point among them."""
    grids: list[Tensor | None] = []
    for index, weight in enumerate(weights):
        wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
        ends = torch.randn(2, weight.shape[0], device=weight.device, dtype=wide).sort(0).values
        ends[:, :1] = ends[:1, :1]
        grids.append(ends if index % 3 else None)
    return grids


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zero_point", ["integer", "real"])
def test_given_ranges_equal_fake_quantize(device: torch.device, dtype: torch.dtype, zero_point: str) -> None:
    weights = mixed_weights(device, dtype)
    grids = grids_of(weights)
    bits = [2 + i % 7 for i in range(len(weights))]
    outputs = hc.fake_quantize_weights(weights, bits, zero_point=zero_point, ranges=grids)
    eager = reference.fake_quantize_weights(weights, bits, real_zero_point=zero_point == "real", ranges=grids)
    for y, expected, weight, ends, width in zip(outputs, eager, weights, grids, bits, strict=True):
        assert y.dtype == dtype
        assert torch.equal(y, expected)
        if ends is not None:
            alone = hc.fake_quantize(weight, *ends, width, 0, zero_point=zero_point)
            assert torch.equal(y, alone)


@pytest.mark.parametrize("given", [False, True])
def test_more_weights_than_one_table_holds(device: torch.device, given: bool) -> None:
    weights = [torch.randn(1 + i % 5, 1 + i % 11, device=device) for i in range(301)]
    weights[7] = torch.empty(0, 4, device=device)
    grids = grids_of(weights) if given else None
    outputs = hc.fake_quantize_weights(weights, 3, ranges=grids)
    eager = reference.fake_quantize_weights(weights, [3] * 301, ranges=grids)
    assert all(torch.equal(y, expected) for y, expected in zip(outputs, eager, strict=True))


def test_given_ranges_of_another_dtype_or_layout_and_gradient(device: torch.device) -> None:
    weight = torch.randn(6, 5, device=device, requires_grad=True)
    ends = torch.stack([-torch.rand(6, device=device), torch.rand(6, device=device)], 1).T
    (y,) = hc.fake_quantize_weights([weight], 4, ranges=[ends.double()])
    assert torch.equal(y, hc.fake_quantize(weight, *ends, 4, 0))
    upstream = torch.randn(6, 5, device=device)
    y.backward(upstream)
    assert torch.equal(weight.grad, upstream)


def test_unaligned_and_mixed_dtypes(device: torch.device) -> None:
    buffer = torch.randn(101, device=device)
    weights = [buffer[1:].view(10, 10), torch.randn(4, 4, device=device).half()]
    outputs = hc.fake_quantize_weights(weights, 4)
    for y, expected in zip(outputs, reference.fake_quantize_weights(weights, [4, 4]), strict=True):
        assert torch.equal(y, expected)


def test_weight_gradient_is_the_identity_twice(device: torch.device) -> None:
    weight = torch.randn(4, 5, device=device, requires_grad=True)
    (y,) = hc.fake_quantize_weights([weight], 3)
    upstream = torch.randn(4, 5, device=device)
    y.backward(upstream, retain_graph=False)
    y.backward(upstream)  # the second student forward reuses the same quantized weight
    assert torch.equal(weight.grad, 2 * upstream)


def test_opcheck(device: torch.device) -> None:
    x = torch.randn(3, 4, device=device)
    torch.library.opcheck(torch.ops.hast_cuda.fake_quantize_weights.default, ([x, x.clone()], [3, 4], False, []))
    ends = [torch.zeros(0, device=device), torch.tensor([[-1.0] * 3, [2.0] * 3], device=device)]
    torch.library.opcheck(torch.ops.hast_cuda.fake_quantize_weights.default, ([x, x.clone()], [3, 4], False, ends))


X = torch.randn(4)


test_refusals = refused(
    (lambda: hc.fake_quantize_weights([X], [3, 4]), ValueError, "2 entries for 1 weights"),
    (lambda: hc.fake_quantize_weights([X[0]], 3), ValueError, "is a scalar"),
    (lambda: hc.fake_quantize_weights([X.int()], 3), TypeError, "weights.0. has dtype"),
    (lambda: hc.fake_quantize_weights([X], 12), ValueError, "bits.0. is 12"),
    (lambda: hc.fake_quantize_weights([X], 4, ranges=[]), ValueError, "0 entries for 1 weig"),
    (lambda: hc.fake_quantize_weights([X], 4, ranges=X), TypeError, "ranges must be a list"),
    (lambda: hc.fake_quantize_weights([X], 4, ranges=[3]), TypeError, "ranges.0. must be a"),
    (lambda: hc.fake_quantize_weights([X], 4, ranges=[X]), ValueError, r"expected \(2, 4\)"),
    (
        lambda: hc.fake_quantize_weights([X], 4, ranges=[torch.ones(2, 4).cumsum(0).flip(0)]),
        ValueError,
        "lower must not exceed upper",
    ),
    (lambda: hc.fake_quantize_weights([X], 4, ranges=[torch.full((2, 4), float("nan"))]), ValueError, "must be finite"),
    (
        lambda: hc.fake_quantize_weights([X], 4, ranges=[torch.ones(2, 4, device="meta")]),
        ValueError,
        r"ranges\[0\] is on meta but weights\[0\] is on cpu",
    ),
)


def test_no_weights_is_no_work() -> None:
    assert hc.fake_quantize_weights([], 4) == []


def test_weights_of_one_axis_are_quantized_without_the_core_too() -> None:
    weight = torch.tensor([0.5, -2.0, 0.0])
    (y,) = reference.fake_quantize_weights([weight], [4])
    assert torch.equal(y, hc.fake_quantize_weights([weight], 4)[0])


def test_memory_at_an_odd_address_is_refused() -> None:
    buffer = bytearray(4 * 4 + 1)
    x = torch.frombuffer(buffer, dtype=torch.float32, offset=1, count=4)
    with pytest.raises(ValueError, match=r"x lies at an address .* give x.clone\(\)"):
        hc.fake_quantize(x, 0.0, 1.0, 4)
    assert torch.equal(hc.fake_quantize(x.clone(), 0.0, 1.0, 4), torch.zeros(4))


def test_sizes_beyond_any_memory_are_refused_before_a_copy() -> None:
    with pytest.raises(ValueError, match=r"x has shape .* more than"):
        hc.fake_quantize(torch.zeros(1).expand(2**40), 0.0, 1.0, 4)
