"""The layout of packed integers, by hand and by round trips."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hast_cuda.exports.packed_weight import pack, packed_size, unpack


def _uint8(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("bits", "codes", "expected"),
    [
        (2, [1, 2, 3, 0, 2], [0b00111001, 0b10]),
        (3, [1, 2, 3, 4, 5, 6, 7, 0], [0b11010001, 0b01011000, 0b00011111]),
        (4, [1, 2, 15], [0x21, 0x0F]),
        (5, [31, 1], [0b00111111, 0]),
        (5, [1, 31], [0b11100001, 0b11]),
        (7, [127, 127], [255, 63]),
        (8, [255, 0, 128], [255, 0, 128]),
    ],
)
def test_vectors_by_hand(bits: int, codes: list[int], expected: list[int]) -> None:
    assert pack(_uint8(*codes), bits).tolist() == expected
    assert unpack(_uint8(*expected), bits, len(codes)).tolist() == codes


@given(st.data())
def test_round_trip(data: st.DataObject) -> None:
    bits = data.draw(st.integers(2, 8))
    codes = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=70))
    packed = pack(_uint8(*codes), bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (packed_size(len(codes), bits),) == (-(-len(codes) * bits // 8),)
    assert unpack(packed, bits, len(codes)).tolist() == codes


def test_order_is_that_of_the_shape_not_of_the_strides() -> None:
    codes = torch.arange(6, dtype=torch.uint8).reshape(2, 3)
    transposed = codes.t()
    assert torch.equal(pack(transposed, 4), pack(transposed.contiguous(), 4))
    assert pack(transposed, 8).tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize(("bits", "count", "last"), [(3, 3, 0b10), (3, 5, 0x80), (4, 1, 0x10)])
def test_bits_behind_the_last_value_are_refused(bits: int, count: int, last: int) -> None:
    packed = torch.zeros(packed_size(count, bits), dtype=torch.uint8)
    assert not unpack(packed, bits, count).any()
    packed[-1] = last
    with pytest.raises(ValueError, match="behind its last value"):
        unpack(packed, bits, count)
