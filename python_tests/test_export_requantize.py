"""Integer requantization gives, for every sum that can occur, the code of exact arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnx_ir")

from hast_cuda.exports.grid import Affine
from hast_cuda.exports.requantize import Requantization, exact_requantization

Ends = tuple[Affine, Affine, int]  # grids of input and output, largest code


def _operator(sums: np.ndarray, k: float, bias: float, scale: float, ends: Ends) -> np.ndarray:
    """QLinearConv as onnxruntime computes it: float32 product of an int32 sum, half to even."""
    before, after, last = ends
    factor = np.float32(np.float32(before.step) * np.float32(scale)) / np.float32(after.step)
    product = (k * sums + bias).astype(np.float32) * factor
    return np.clip(np.rint(product).astype(np.int64) + after.zero_point, 0, last)


def _exact(sums: np.ndarray, bias: float, scale: float, ends: Ends) -> np.ndarray:
    before, after, last = ends
    value = before.step * scale * sums.astype(np.float64) + bias
    return np.clip(np.rint(value / after.step) + after.zero_point, 0, last).astype(np.int64)


def _compared(
    rows: np.ndarray, scale: np.ndarray, bias: np.ndarray, ends: Ends, largest: int = 127
) -> Requantization | None:
    """The parameters, if there are any, after a comparison for every sum that can occur."""
    before, after, last = ends
    found = exact_requantization(rows, scale, bias, before, after, first=0, last=last, largest=largest)
    for i, row in enumerate(rows if found is not None else ()):
        given = np.stack([row * -before.zero_point, row * (before.largest - before.zero_point)])
        sums = np.arange(given.min(0).sum(), given.max(0).sum() + 1)
        codes = _operator(sums, found.multiplier[i], found.bias[i], found.scale[i], ends)
        assert np.array_equal(codes, _exact(sums, bias[i], scale[i], ends))
        assert found.multiplier[i] == 1 or found.multiplier[i] * np.abs(row).max() <= largest
    return found


def _random(bits: int, seed: int, zero_points: tuple[int, int], channels: int = 16) -> bool:
    random = np.random.default_rng(seed)
    largest = 2**bits - 1
    fan_in = int(random.integers(1, 300))
    rows = random.integers(-largest, largest + 1, (channels, fan_in))
    before = Affine(bits, float(random.uniform(0.01, 1)), zero_points[0])
    scale = random.uniform(0.001, 0.1, channels)
    spread = before.step * scale.mean() * largest * largest * fan_in**0.5 / 3
    ends = before, Affine(bits, float(spread / largest), zero_points[1]), largest
    bias = random.normal(0, spread, channels)
    return _compared(rows, scale, bias, ends, min(127, 32767 // (2 * largest))) is not None


@pytest.mark.parametrize(("bits", "share"), [(2, 1.0), (3, 1.0), (4, 0.8)])
def test_every_sum_gets_its_code(bits: int, share: float) -> None:
    """Nearly every layer of 16 channels has exact parameters; those that have are exact."""
    assert np.mean([_random(bits, seed, (0, 0)) for seed in range(25)]) >= share


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), zero=st.tuples(st.integers(0, 7), st.integers(0, 7)))
def test_zero_points_in_the_middle(seed: int, zero: tuple[int, int]) -> None:
    _random(3, seed, zero, channels=4)


def test_plain_rounding_of_the_bias_is_not_exact() -> None:
    """What the search is for: with k = 1 and the nearest bias, some sums get another code."""
    before, sums, scale, bias = Affine(4, 0.1, 0), np.arange(-500, 500), 0.02, 0.0009
    ends = before, Affine(4, 0.5, 0), 15
    rounded = _operator(sums, 1, round(bias / (before.step * scale)), scale, ends)
    assert not np.array_equal(rounded, _exact(sums, bias, scale, ends))
    assert _compared(np.full((1, 40), 1), np.array([scale]), np.array([bias]), ends) is not None


def test_constant_channels_have_a_code() -> None:
    ends = Affine(4, 0.1, 0), Affine(4, 0.2, 0), 15
    scale, bias = np.array([2.0, 2.0]), np.array([1.13, -3.0])
    assert _compared(np.zeros((2, 9), np.int64), scale, bias, ends) is not None


def test_without_room_nothing_is_multiplied() -> None:
    """8-bit codes with zero points are stored as they are: k must be 1 in every channel.

    Without room for k, some biases lie so between two sums that no integer B will do.
    """

    def multipliers(largest: int) -> set[int | None]:
        given = np.full((1, 40), 15), np.array([1.0])
        grids = Affine(4, 1.0, 0), Affine(4, 2 / 3, 0)
        found = [
            exact_requantization(*given, np.array([bias]), *grids, first=0, last=15, largest=largest)
            for bias in np.linspace(0, 1, 21)
        ]
        return {None if f is None else int(f.multiplier[0]) for f in found}

    assert max(k or 0 for k in multipliers(127)) > 1
    assert multipliers(0) == multipliers(15) == {1, None}


@pytest.mark.filterwarnings("error")
def test_ranges_without_width() -> None:
    """A layer behind, or in front of, an activation that is always 0: steps of 1e-8 / 7."""
    random = np.random.default_rng(0)
    rows, scale = random.integers(-4, 4, (8, 54)), random.uniform(0.02, 0.1, 8)
    bias, nothing = random.normal(0, 0.5, 8), Affine(3, 1e-8 / 7, 0)
    # Its sums are far too small beside the bias: such a layer scales them in float.
    assert _compared(rows, scale, bias, (nothing, Affine(3, 0.2, 0), 7), 120) is None
    assert _compared(rows, scale, bias, (Affine(3, 0.1, 0), nothing, 7), 120) is not None
