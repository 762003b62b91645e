"""Codes and grids are the values of the layers, bit by bit."""

from __future__ import annotations

import pytest
import torch

import hast_cuda as hc
from hast_cuda.exports.grid import activation_grid, grid_of, values_of, weight_codes


def _layer(bits: int, kind: str = "normal") -> hc.FakeQuantConv2d | hc.FakeQuantLinear:
    torch.manual_seed(bits)
    if kind == "linear":
        return hc.FakeQuantLinear(6, 4, weight_bits=bits)
    layer = hc.FakeQuantConv2d(5, 7, 3, weight_bits=bits)
    with torch.no_grad():
        if kind == "positive":
            layer.weight.abs_().add_(0.5)
        if kind == "constant":
            column = torch.arange(7.0).sub(3).reshape(-1, 1, 1, 1)
            layer.weight.copy_(column.expand_as(layer.weight))
        if kind == "fixed":
            layer.fix_weight_range()
            layer.weight.mul_(0.5)  # its own minimum and maximum would give another grid
    return layer


@pytest.mark.parametrize("kind", ["normal", "positive", "constant", "fixed", "linear"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_codes_are_the_quantized_weight(bits: int, kind: str) -> None:
    layer = _layer(bits, kind)
    found, expected = weight_codes(layer), layer.quantized_weight()
    grid, shape = found.grid, (-1, *[1] * (layer.weight.dim() - 1))
    assert found.codes.dtype == torch.uint8
    assert int(found.codes.max()) < 2**bits
    assert torch.equal(values_of(found.codes, grid), expected)
    affine = grid.step.reshape(shape) * (found.codes.long() - grid.zero_point.reshape(shape))
    torch.testing.assert_close(affine, expected, rtol=1e-6, atol=1e-6)
    if kind in ("normal", "positive"):
        assert (kind == "normal") == bool(grid.contains_zero.all()) == bool(grid.contains_zero.any())


def test_activation_grid_of_relu_starts_at_zero() -> None:
    quantizer = hc.FakeQuantActivation(4, activation="relu")
    quantizer.set_range(0.0, 3.0)
    quantizer.freeze()
    grid = activation_grid(quantizer)
    assert grid.zero_point.tolist() == [0]
    assert grid.step.tolist() == pytest.approx([0.2])
    x = torch.rand(1000) * 5 - 1
    codes = (x.relu() / grid.step).round().clamp(0, 15)
    assert torch.allclose(quantizer(x), codes * grid.step)


def test_values_along_another_axis() -> None:
    grid = grid_of(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 2.0]), 2)
    codes = torch.tensor([[0, 0], [3, 3]], dtype=torch.uint8)
    assert torch.allclose(values_of(codes, grid, axis=1)[:, 1], torch.tensor([0.0, 2.0]))


def test_what_cannot_be_stored_is_refused_by_name() -> None:
    real = hc.FakeQuantConv2d(1, 1, 1, zero_point="real")
    with pytest.raises(ValueError, match=r"'stem'.*real.*integer"):
        weight_codes(real, "stem")
    broken = _layer(4)
    with torch.no_grad():
        broken.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"'c'.*NaN"):
        weight_codes(broken, "c")
    with pytest.raises(ValueError, match=r"'a'.*not frozen"):
        activation_grid(hc.FakeQuantActivation(4), "a")
    frozen = hc.FakeQuantActivation(4)
    frozen.freeze()  # never calibrated: NaN or an empty range
    with torch.no_grad():
        frozen.range_state[1] = torch.inf
    with pytest.raises(ValueError, match=r"'a'.*not finite"):
        activation_grid(frozen, "a")
