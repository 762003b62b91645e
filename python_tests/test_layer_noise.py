from __future__ import annotations

import math

import pytest
import torch
from networks import pictures, tiny

import hast_cuda as hc
from hast_cuda.finetune.layer_noise import layer_signal_to_noise


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
