"""Integer requantization gives, for every sum that can occur, the code of exact arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnx_ir")

from hast_cuda.exports.grid import Affine
from hast_cuda.exports.requantize import exact_requantization


def _operator(sums: np.ndarray, multiplier: int, bias: int, scale: float, before: Affine,
              after: Affine, first: int, last: int) -> np.ndarray:  # fmt: skip
    """QLinearConv as onnxruntime computes it: float32 product of an int32 sum, half to even."""
    factor = np.float32(np.float32(before.step) * np.float32(scale)) / np.float32(after.step)
    product = (multiplier * sums + bias).astype(np.float32) * factor
    codes = np.rint(product).astype(np.int64) + after.zero_point
    return np.clip(codes, max(first, 0), min(last, 255))


def _exact(sums: np.ndarray, scale: float, bias: float, before: Affine, after: Affine,
           first: int, last: int) -> np.ndarray:  # fmt: skip
    value = before.step * scale * sums.astype(np.float64) + bias
    return np.clip(np.rint(value / after.step) + after.zero_point, first, last).astype(np.int64)


def _compare(bits: int, seed: int, zero_points: tuple[int, int], channels: int = 16) -> float:
    """Checks all channels; gives the share of layers that had exact parameters."""
    random = np.random.default_rng(seed)
    largest = 2**bits - 1
    fan_in = int(random.integers(1, 300))
    rows = random.integers(-largest, largest + 1, (channels, fan_in))
    before = Affine(bits, float(random.uniform(0.01, 1)), zero_points[0])
    scale = random.uniform(0.001, 0.1, channels)
    spread = before.step * scale.mean() * largest * largest * fan_in**0.5 / 3
    after = Affine(bits, float(spread / largest), zero_points[1])
    bias = random.normal(0, spread, channels)
    found = exact_requantization(
        rows, scale, bias, before, after, first=0, last=largest,
        largest=min(127, 32767 // (2 * largest)),
    )  # fmt: skip
    if found is None:
        return 0.0
    for i, row in enumerate(rows):
        ends = np.stack([row * -before.zero_point, row * (largest - before.zero_point)])
        sums = np.arange(ends.min(0).sum(), ends.max(0).sum() + 1)
        expected = _exact(sums, scale[i], bias[i], before, after, 0, largest)
        codes = _operator(sums, int(found.multiplier[i]), int(found.bias[i]),
                          float(found.scale[i]), before, after, 0, largest)  # fmt: skip
        assert np.array_equal(codes, expected)
        assert found.multiplier[i] * np.abs(row).max() <= 127
    return 1.0


@pytest.mark.parametrize(("bits", "share"), [(2, 1.0), (3, 1.0), (4, 0.8)])
def test_every_sum_gets_its_code(bits: int, share: float) -> None:
    """Nearly every layer of 16 channels has exact parameters; those that have are exact."""
    assert np.mean([_compare(bits, seed, (0, 0)) for seed in range(25)]) >= share


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), zero=st.tuples(st.integers(0, 7), st.integers(0, 7)))
def test_zero_points_in_the_middle(seed: int, zero: tuple[int, int]) -> None:
    _compare(3, seed, zero, channels=4)


def test_plain_rounding_of_the_bias_is_not_exact() -> None:
    """What the search is for: with k = 1 and the nearest bias, some sums get another code."""
    before, after = Affine(4, 0.1, 0), Affine(4, 0.5, 0)
    sums = np.arange(-500, 500)
    scale, bias = 0.02, 0.0009
    expected = _exact(sums, scale, bias, before, after, 0, 15)
    counts = round(bias / (before.step * scale))
    rounded = _operator(sums, 1, counts, scale, before, after, 0, 15)
    assert not np.array_equal(rounded, expected)
    found = exact_requantization(
        np.full((1, 40), 1), np.array([scale]), np.array([bias]), before, after, first=0, last=15,
        largest=127,
    )  # fmt: skip
    assert found is not None
    codes = _operator(sums, int(found.multiplier[0]), int(found.bias[0]), float(found.scale[0]),
                      before, after, 0, 15)  # fmt: skip
    occurring = (sums >= 0) & (sums <= 600)
    assert np.array_equal(codes[occurring], expected[occurring])


def test_constant_channels_have_a_code() -> None:
    before, after = Affine(4, 0.1, 0), Affine(4, 0.2, 0)
    found = exact_requantization(
        np.zeros((2, 9), np.int64), np.array([2.0, 2.0]), np.array([1.13, -3.0]), before, after,
        first=0, last=15, largest=127,
    )  # fmt: skip
    assert found is not None
    codes = [
        int(_operator(np.zeros(1), int(k), int(b), float(s), before, after, 0, 15)[0])
        for k, b, s in zip(found.multiplier, found.bias, found.scale, strict=True)
    ]
    assert codes == [6, 0]


def test_without_room_nothing_is_multiplied() -> None:
    """8-bit codes with zero points are stored as they are: k must be 1 in every channel.

    Without room for k, some biases lie so between two sums that no integer B will do.
    """
    before, after = Affine(4, 1.0, 0), Affine(4, 2 / 3, 0)
    rows, scale = np.full((1, 40), 15), np.array([1.0])

    def multipliers(largest: int) -> list[int | None]:
        found = [
            exact_requantization(
                rows, scale, np.array([bias]), before, after, first=0, last=15, largest=largest
            )
            for bias in np.linspace(0, 1, 21)
        ]
        return [None if f is None else int(f.multiplier[0]) for f in found]

    assert max(k or 0 for k in multipliers(127)) > 1
    assert set(multipliers(0)) == {1, None}
    assert multipliers(15)[0] is not None


@pytest.mark.filterwarnings("error")
def test_ranges_without_width() -> None:
    """A layer behind, or in front of, an activation that is always 0: steps of 1e-8 / 7."""
    random = np.random.default_rng(0)
    rows, scale = random.integers(-4, 4, (8, 54)), random.uniform(0.02, 0.1, 8)
    bias, nothing = random.normal(0, 0.5, 8), Affine(3, 1e-8 / 7, 0)
    ends = {"first": 0, "last": 7, "largest": 120}
    # Its sums are far too small beside the bias: such a layer scales them in float.
    assert exact_requantization(rows, scale, bias, nothing, Affine(3, 0.2, 0), **ends) is None
    before = Affine(3, 0.1, 0)
    found = exact_requantization(rows, scale, bias, before, nothing, **ends)
    assert found is not None
    for i in range(len(rows)):
        sums = np.arange(-300, 301)
        codes = _operator(sums, int(found.multiplier[i]), int(found.bias[i]),
                          float(found.scale[i]), before, nothing, 0, 7)  # fmt: skip
        assert np.array_equal(codes, _exact(sums, scale[i], bias[i], before, nothing, 0, 7))
