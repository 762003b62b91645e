"""quantize(): bits per layer by pattern, and everything it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

import hast_cuda as hc
from hast_cuda.nn import Override


def small() -> nn.Module:
    """Conv-BN-ReLU twice and a classifier for [N, 2, 8, 8]."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
        nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), nn.ReLU6()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def test_overrides_and_the_last_match_wins() -> None:
    overrides = {
        "*": Override(5, 6),
        "0.*": Override(8, 7),
        "0.2": Override(8, None),
        "4": Override(),
    }
    student = hc.quantize(small(), 3, 3, overrides=overrides)
    bits = {r.name: (r.weight_bits, r.act_bits) for r in hc.quantization_table(student).rows}
    assert bits == {
        "0.0": (8, None), "0.2": (None, None), "1.0": (5, None), "1.2": (None, 6), "4": (None, None)
    }  # fmt: skip
    assert type(student[4]) is nn.Linear
    assert type(student[0][2]) is nn.ReLU
    notes = {r.name: r.note for r in hc.quantization_table(student).rows}
    assert notes["0.2"] == notes["4"] == "kept in full precision"


@pytest.mark.parametrize("pattern", ["features.*", "0", "1.1", "2"])
def test_pattern_that_matches_no_layer(pattern: str) -> None:
    # also a container, a BatchNorm or a pooling layer: an override of those would do nothing
    message = rf"overrides match no layer: \['{pattern}'\]; names look like '0.0'"
    with pytest.raises(ValueError, match=message.replace("*", r"\*")):
        hc.quantize(small(), overrides={"4": Override(8), pattern: Override(8, 8)})


def test_override_of_an_activation_that_placement_all_leaves_alone() -> None:
    with pytest.raises(ValueError, match=r"overrides match no layer: \['0.2'\]"):
        hc.quantize(small(), placement="all", overrides={"0.2": Override(8, 8)})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: hc.quantize(nn.Sequential(nn.ReLU())), ValueError, "no Conv2d or Linear layer to"),
        (lambda: hc.quantize(nn.BatchNorm2d(3), overrides={"x": Override()}), ValueError,
         "no Conv2d or Linear layer to quantize"),
        (lambda: hc.quantize(small().forward), TypeError, "model must be an nn.Module, got method"),
        (lambda: hc.quantize(small(), 1), ValueError, "weight_bits is 1; allowed: 2 to 8"),
        (lambda: hc.quantize(small(), 4, 9), ValueError, "act_bits is 9; allowed: 2 to 8"),
        (lambda: hc.quantize(small(), 4.0), TypeError, "weight_bits must be an int"),
        (lambda: hc.quantize(small(), placement="some"), ValueError,
         "placement is 'some'; allowed: 'relu', 'all'"),
        (lambda: hc.quantize(small(), ema="x"), ValueError, "ema is 'x'; allowed"),
        (lambda: hc.quantize(small(), zero_point="x"), ValueError, "zero_point is 'x'; allowed"),
        (lambda: Override(16), ValueError, "weight_bits is 16; allowed: 2 to 8"),
        (lambda: Override(None, 0), ValueError, "act_bits is 0; allowed: 2 to 8"),
    ],
)  # fmt: skip
def test_refusals(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
