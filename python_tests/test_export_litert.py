"""TFLite files in int8: their operators, and that LiteRT gives the student's logits."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_networks import SHAPE, Bottlenecks, Gates, Joined, Residual, pictures, student_of
from torch import nn

import hast_cuda as hc
from hast_cuda.exports import check, integer_biases, save_litert
from hast_cuda.exports.verify import litert_network

pytest.importorskip("onnx")
needs_litert = pytest.mark.skipif(importlib.util.find_spec("ai_edge_litert") is None, reason="needs ai-edge-litert")
ENDS = {"QUANTIZE": 1, "DEQUANTIZE": 1, "FULLY_CONNECTED": 1}  # the images; the classifier, in float


def grids(path: Path) -> dict[str, tuple[float, int]]:
    """Scale and zero point of every int8 tensor, by name."""
    from ai_edge_litert.interpreter import Interpreter

    tensors = Interpreter(model_path=str(path)).get_tensor_details()
    return {tensor["name"]: tensor["quantization"] for tensor in tensors if tensor["dtype"].__name__ == "int8"}


@needs_litert
@pytest.mark.parametrize(
    ("build", "bits", "options", "expected"),
    [
        (Residual, (8, 8), {"symmetric_weights": True}, {"CONV_2D": 6, "ADD": 2}),
        (Residual, (3, 3), {"sum_bits": 6}, {"CONV_2D": 6, "MAXIMUM": 5}),
        (Bottlenecks, (3, 3), {}, {"CONV_2D": 4, "ADD": 1, "DEPTHWISE_CONV_2D": 1, "MEAN": 1, "PAD": 1}),
        (Joined, (4, 4), {}, {"CONV_2D": 4, "CONCATENATION": 1, "MAX_POOL_2D": 1, "DEPTHWISE_CONV_2D": 2, "PAD": 1}),
    ],
    ids=["residual-8", "residual-narrow", "bottlenecks-3", "joined-4"],
)
def test_litert_gives_the_students_logits(
    build: Callable[[], nn.Module], bits: tuple[int, int], options: Any, expected: dict[str, int], tmp_path: Path
) -> None:
    student, _ = integer_biases(student_of(build, *bits, **options), SHAPE)
    info = save_litert(student, tmp_path / "a.tflite", SHAPE, describe={"seed": 0})
    assert info.nodes.items() >= (ENDS | expected).items()
    assert not info.rounded_layers
    found = check(litert_network(info.file), student, pictures(300, 7))
    assert found.top1_agreement == 100
    assert found.largest_difference < 1e-3  # one code more or less gives a hundred times that
    if build is Bottlenecks:  # the largest code is where int8 ends
        zero_points = {name: grid[1] for name, grid in grids(info.file).items()}
        assert zero_points["stem.1"] == zero_points["block.3"] == 127 - 7
        assert zero_points["output.input_quantizer"] == -128  # means of what is at least 0, in 8 bits


@needs_litert
def test_weights_that_int8_does_not_hold_are_named(tmp_path: Path) -> None:
    student, _ = integer_biases(student_of(Residual, 8, 8), SHAPE)
    info = save_litert(student, tmp_path / "a.tflite", SHAPE)
    assert set(info.rounded_layers) == {"stem.0.0", "a.0.0", "b.0", "short.0", "c.0.0", "d.0"}
    assert all("int8 with zero point 0" in reason for reason in info.rounded_layers.values())
    assert check(litert_network(info.file), student, pictures(100, 7)).cosine > 0.999


@needs_litert
def test_what_int8_cannot_compute_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"stem\.0\.0.*placement=.integer"):
        save_litert(student_of(Residual, 4, 4, placement="relu"), tmp_path / "a.tflite", SHAPE)
    with pytest.raises(ValueError, match="its activation is"):
        save_litert(student_of(Gates, 4, 4, placement="all"), tmp_path / "a.tflite", SHAPE)
    assert not list(tmp_path.iterdir())


@needs_litert
def test_the_exported_file_is_compared_with_the_network_whose_biases_moved(tmp_path: Path) -> None:
    done = hc.export(student_of(Residual, 4, 4), tmp_path, "litert", SHAPE, images=pictures(64, 7))
    assert done.file.name == "student.tflite"
    counts = ENDS | {"CONV_2D": 6, "ADD": 2, "MAX_POOL_2D": 1, "MEAN": 1, "PAD": 2}
    assert done.nodes.items() >= counts.items()
    assert set(done.moved_biases) == {"b.0", "short.0", "d.0"}
    assert done.checks is not None
    assert done.checks.top1_agreement == 100
    assert done.checks.largest_difference < 1e-3


def test_without_litert_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ai_edge_litert" else found(name))
    student = hc.calibrate(hc.quantize(hc.load_teacher("digits"), 4, 4), [torch.rand(8, 1, 8, 8)])
    with pytest.raises(ImportError, match=r"hast_cuda\[litert\]"):
        save_litert(student, tmp_path / "a.tflite", (1, 8, 8))
    with pytest.raises(ImportError, match=r"hast_cuda\[litert\]"):
        litert_network(tmp_path / "a.tflite")
