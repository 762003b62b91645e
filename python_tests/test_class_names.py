"""Names of classes that exported files carry."""

from __future__ import annotations

import pytest

from hast_cuda.data.input_spec import class_names


@pytest.mark.parametrize(
    ("model", "count", "first", "last"),
    [
        ("digits", 10, "0", "9"),
        ("resnet20_cifar10", 10, "airplane", "truck"),
        ("wrn16_10_cifar100", 100, "apple", "worm"),
    ],
)
def test_names_in_the_order_of_labels(model: str, count: int, first: str, last: str) -> None:
    names = class_names(model, count)
    assert len(set(names)) == count
    assert (names[0], names[-1]) == (first, last)
    assert list(names) == sorted(names)


@pytest.mark.parametrize(("model", "count"), [("resnet18", 1000), ("mine:network", 10), ("resnet20_cifar10", 11)])
def test_no_name_is_better_than_a_wrong_one(model: str, count: int) -> None:
    assert class_names(model, count) == ()
