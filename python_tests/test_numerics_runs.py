"""Whole runs of every method on networks with dead channels, two classes, one pixel, one image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from edge_networks import EVERY, OnePixel, all_finite, edges, labelled, one_pixel, silent, small_recipe, two_classes
from networks import CHANNELS, CLASSES, SIZE
from torch import nn

import hast_cuda as hc
from hast_cuda.data import InputSpec
from hast_cuda.exports import check, onnx_network, save_onnx
from hast_cuda.generator import GeneratorTrainer
from hast_cuda.nn import activation_quantizers
from hast_cuda.run import Bits, zero_shot_quantize

SHAPE = (CHANNELS, SIZE, SIZE)
ONE_BY_ONE: dict[str, Any] = {
    "synthesis.num_images": 1,
    "synthesis.batch_size": 1,
    "finetune.batch_size": 1,
    "finetune.calibration_batch_size": 1,
}


def quantized(network: nn.Module, method: str, classes: int, **changes: Any) -> tuple[nn.Module, dict[str, Any]]:
    """The student of a short run, whose every number is finite."""
    recipe = small_recipe(method, **changes)
    images = labelled(10, classes) if recipe.images == "real" else None
    shape = InputSpec(*SHAPE, classes)
    done = zero_shot_quantize(network, shape, Bits(3, 3), recipe=recipe, images=images, seed=1)
    assert all_finite(done.student)
    if done.images is not None:
        assert bool(done.images.images.isfinite().all())
    with torch.no_grad():
        assert bool(done.student.eval()(labelled(4, classes).images).isfinite().all())
    return done.student, done.result


@pytest.mark.parametrize("method", EVERY)
def test_dead_and_constant_channels(method: str) -> None:
    quantized(edges(), method, CLASSES)


@pytest.mark.parametrize("method", ["hast", "intraq", "ait", "squant", "dfq"])
def test_a_layer_that_gives_only_zeros(method: str) -> None:
    student, _ = quantized(silent(), method, CLASSES)
    first = next(iter(activation_quantizers(student).values()))
    assert first.range_state[:2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("network", "form"), [(edges, "ort"), (silent, "ort"), (edges, "portable"), (edges, "uint4")])
def test_exports_of_dead_channels(network: Callable[[], nn.Module], form: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    student = hc.calibrate(hc.quantize(network(), 3, 3), [labelled(8, CLASSES).images])
    save_onnx(student, tmp_path / "network.onnx", SHAPE, form=form)
    found = check(onnx_network(tmp_path / "network.onnx"), student, labelled(64, CLASSES).images)
    assert found.passed()
    assert found.largest_difference < 1e-3


@pytest.mark.parametrize("method", EVERY)
def test_two_classes_one_pixel_one_image(method: str) -> None:
    quantized(two_classes(), method, 2, **ONE_BY_ONE)


@pytest.mark.parametrize("method", ["hast", "qimera"])
def test_a_thousand_classes(method: str) -> None:
    quantized(one_pixel(1000), method, 1000)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 50.0])
def test_images_of_a_certain_teacher_stay_finite(exponent: float) -> None:
    """Logits so far apart that p_y is exactly 1 or 0 from the first iteration on."""
    network = edges()
    with torch.no_grad():
        network.output.weight *= 1e4
    changes = {"synthesis.difficulty_exponent": exponent, "synthesis.label_weight": 10.0}
    quantized(network, "hast", CLASSES, **changes)


def test_one_value_per_channel_has_no_generator() -> None:
    with pytest.raises(ValueError, match=r"batch_size is 1 and images are 4 x 4: .* one value per"):
        GeneratorTrainer(OnePixel(2), (3, 4, 4), 2, batch_size=1)
    trainer = GeneratorTrainer(two_classes(), SHAPE, 2, batch_size=1)  # 2 x 2 at first
    images, _ = trainer.step()
    trainer.check()
    assert bool(images.isfinite().all())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_weights_that_cannot_be_quantized_are_named(value: float) -> None:
    network = edges()
    with torch.no_grad():
        network.features[3].weight[2, 1, 0, 0] = value
    with pytest.raises(ValueError, match=r"weight of layer 'features.3' contains NaN, infinity or"):
        zero_shot_quantize(network, SHAPE, recipe=small_recipe("rtn"))


@pytest.mark.parametrize("method", ["hast", "intraq", "gdfq"])
def test_statistics_that_cannot_be_matched_end_before_any_work(method: str) -> None:
    network = edges()
    network.features[4].running_var[2] = -1.0
    recipe = small_recipe(method)
    with pytest.raises(ValueError, match=r"running_var of 'features.4' is -1.0 in channel 2"):
        zero_shot_quantize(network, SHAPE, recipe=recipe)
