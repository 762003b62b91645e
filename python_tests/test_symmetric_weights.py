"""Weights with zero point 0, from the first grid to the exported one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import hast_cuda as hc
from hast_cuda.exports.grid import weight_codes
from hast_cuda.nn.quantized_weight import QuantizedWeight, symmetric_range
from hast_cuda.posttraining import squant
from hast_cuda.reconstruction import ReconstructionConfig, reconstruct
from hast_cuda.reconstruction.rounding import search_weight_range


def weighted(student: nn.Module) -> dict[str, QuantizedWeight]:
    return {name: layer for name, layer in student.named_modules() if isinstance(layer, QuantizedWeight)}


def made(bits: int, **options: Any) -> nn.Module:
    student = hc.quantize(hc.load_teacher("digits"), bits, 4, symmetric_weights=True, **options)
    return hc.calibrate(student, [torch.randn(8, 1, 8, 8)])


def assert_symmetric(student: nn.Module) -> None:
    for name, layer in weighted(student).items():
        grid = weight_codes(layer, name).grid
        assert (grid.zero_point == 2 ** (layer.weight_bits - 1)).all(), name


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_largest_magnitude_is_the_last_level(bits: int) -> None:
    weight = torch.randn(5, 7)
    weight[2] = 0.0
    quantized = hc.fake_quantize_weights([weight], bits, ranges=[symmetric_range(weight, bits)])[0]
    step = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    expected = (weight / step).round() * step
    assert torch.allclose(quantized, expected.nan_to_num(), atol=1e-6)


@pytest.mark.parametrize("bits", [3, 8])
def test_every_pass_keeps_the_zero_point(bits: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = hc.load_teacher("digits")
    student = made(bits, first_last_bits=8)
    assert_symmetric(student)
    assert_symmetric(squant(made(bits)))
    reconstruct(teacher, student, torch.randn(16, 1, 8, 8), ReconstructionConfig(iterations=4, batch_size=8))
    assert_symmetric(student)
    file = hc.export(student, tmp_path, "packed", (1, 8, 8)).file
    assert_symmetric(hc.load(file, "digits"))


def test_the_search_tries_symmetric_grids_alone() -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 40) + 0.5
    weight[0, 0] = 9.0
    low, high = search_weight_range(weight, 4, symmetric=True)
    assert torch.allclose(low / high, torch.full_like(low, -8 / 7))
    assert high[0] < 9.0  # an outlier that is better cut off


def test_eight_bits_fit_int8_without_another_rounding(tmp_path: Path) -> None:
    """A zero point of its own makes codes of up to 255 of them, for which int8 has no room."""
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    teacher = hc.load_teacher("digits")
    rounded = {}
    for symmetric in (False, True):
        student = hc.quantize(teacher, 8, 8, placement="all", symmetric_weights=symmetric)
        hc.calibrate(student, [torch.randn(8, 1, 8, 8)])
        exported = hc.export(student, tmp_path / str(symmetric), "onnx-qdq", (1, 8, 8))
        rounded[symmetric] = any("once more" in why for why in exported.rounded_layers.values())
    assert rounded == {False: True, True: False}


def test_a_grid_without_a_level_at_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="symmetric_weights"):
        hc.quantize(hc.load_teacher("digits"), 4, 4, zero_point="real", symmetric_weights=True)


def test_a_run_is_read_back_with_it(tmp_path: Path) -> None:
    teacher = hc.load_teacher("digits")
    bits = hc.Bits(4, 4, symmetric_weights=True)
    done = hc.zero_shot_quantize(teacher, (1, 8, 8), bits, method="squant", out=tmp_path / "run")
    assert_symmetric(done.student)
    loaded = hc.load(tmp_path / "run", teacher)
    assert_symmetric(loaded)
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(loaded(x), done.student(x))
