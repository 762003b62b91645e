from __future__ import annotations

from typing import Any

import pytest

from hast_cuda.data.input_spec import NORMALIZATIONS, InputSpec, parse_normalization
from hast_cuda.teachers import input_spec

NAME = "resnet20_cifar10"


@pytest.mark.parametrize(
    ("name", "size", "mean", "classes", "resize"),
    [
        ("resnet20_cifar10", 32, 0.4914, 10, None),
        ("resnet20_cifar100", 32, 0.4914, 100, None),
        ("resnet20_svhn", 32, 0.4914, 10, None),
        ("resnet18", 224, 0.485, 1000, 256),
        ("inceptionv3", 299, 0.485, 1000, 342),
        ("digits", 8, 0.3058, 10, None),
    ],
)
def test_input_spec(name: str, size: int, mean: float, classes: int, resize: int | None) -> None:
    spec = input_spec(name)
    assert (spec.height, spec.width, spec.num_classes, spec.resize) == (size, size, classes, resize)
    assert spec.mean[0] == mean
    assert spec.channels == len(spec.mean) == (1 if name == "digits" else 3)


def test_input_spec_overrides() -> None:
    assert input_spec(NAME).std == (0.2023, 0.1994, 0.2010)
    assert input_spec(NAME, normalization="cifar10").std == (0.2470, 0.2435, 0.2616)
    assert input_spec(NAME, num_classes=7).num_classes == 7
    small = input_spec("resnet18", image_size=112)
    assert (small.height, small.width, small.resize) == (112, 112, 128)


def test_input_spec_of_an_own_network() -> None:
    spec = input_spec("a:b", normalization="0.5/0.25", image_size=28, num_classes=3)
    assert spec == InputSpec(1, 28, 28, 3, (0.5,), (0.25,))
    with pytest.raises(ValueError, match=r"give normalization .*and image_size$"):
        input_spec("a:b", image_size=28)


def test_parse_normalization() -> None:
    numbers = parse_normalization("0.49,0.48,0.44/0.2,0.2,0.2")
    assert numbers == ((0.49, 0.48, 0.44), (0.2, 0.2, 0.2))
    for name, values in NORMALIZATIONS.items():
        assert parse_normalization(name) == values


@pytest.mark.parametrize("text", ["", "cifar", "0.5", "0.5/0.1/0.1", "0.5,0.5/0.1", "0.5/0", "0.5/-1", "nan/1", "x/1"])
def test_parse_normalization_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be one of pytorchcv-cifar, .*0.49,0.48,0.44/0.2"):
        parse_normalization(text)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((3, 0, 8, 10), "height=0"),
        ((3, 8, 8, -1), "num_classes=-1"),
        ((0, 8, 8, 10), "channels=0"),
        ((3, 8, 8, 10, (0.0,), (1.0,)), "1 means and 1 deviations for 3 channels"),
        ((1, 8, 8, 10, (0.0,), (0.0,)), "std above 0"),
        ((1, 8, 8, 10, (), (), 7), "resize=7 must be at least the crop, 8x8"),
    ],
)
def test_input_spec_refuses(values: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InputSpec(*values)  # type: ignore[arg-type]


def test_the_order_of_old_still_means_what_it_meant() -> None:
    old: tuple[Any, ...] = (1, 32, 24, (0.5,), (0.25,), 7)
    with pytest.warns(DeprecationWarning, match="num_classes before mean and std"):
        found = InputSpec(*old)
    assert found == InputSpec(1, 32, 24, 7, (0.5,), (0.25,))
