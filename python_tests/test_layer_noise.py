from __future__ import annotations

import math

import pytest
import torch
from edge_networks import small_recipe
from networks import pictures, tiny

import hast_cuda as hc
from hast_cuda.finetune.agreement import layer_signal_to_noise, verdict


def test_decibels_of_every_layer() -> None:
    teacher, images = tiny(), pictures(70)
    student = hc.calibrate(hc.quantize(tiny(), 3, None), [images])
    found = layer_signal_to_noise(teacher, student, images)
    assert list(found) == ["features.0", "features.3", "output"]
    with torch.no_grad():
        exact, output = (network.get_submodule("features.0")(images).double() for network in (teacher, student))
    expected = 10 * math.log10(float(exact.square().sum() / (output - exact).square().sum()))
    assert found["features.0"] == pytest.approx(expected, rel=1e-6)
    assert not any(m._forward_hooks for n in (teacher, student) for m in n.modules())


def test_equal_networks_and_silent_layers() -> None:
    student = hc.quantize(tiny(), 8, None)
    same = hc.quantize(tiny(), 8, None)
    assert set(layer_signal_to_noise(same, student, pictures(4)).values()) == {200.0}
    with torch.no_grad():
        same.get_submodule("features.3").get_parameter("weight").zero_()
    assert layer_signal_to_noise(same, student, pictures(4))["features.3"] == -200.0


def test_another_network_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no layer 'features\.0'"):
        layer_signal_to_noise(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1)), hc.quantize(tiny(), 4, 4), pictures(2))


def test_a_run_says_what_its_layers_lost_and_what_that_means() -> None:
    recipe = small_recipe("hast", **{"synthesis.num_images": 16})
    done = hc.zero_shot_quantize(tiny(), (3, 8, 8), hc.Bits(3, 3), recipe=recipe)
    ratios = done.result["signal_to_noise"]
    assert list(ratios) == ["features.0", "features.3", "output"]
    printed = str(done)
    assert f"{min(ratios.values()):.1f} dB at {min(ratios, key=ratios.__getitem__)}" in printed
    assert verdict(done.result["agreement"]["same_class"]) in printed


def test_verdicts() -> None:
    assert len({verdict(percent) for percent in (100.0, 94.9, 79.9)}) == 3
    assert verdict(100.0) == verdict(95.0) != verdict(94.9) == verdict(80.0)
