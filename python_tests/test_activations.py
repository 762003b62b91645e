"""The table of fused activations says the same in every column."""

from __future__ import annotations

import pytest
import torch

from hast_cuda.ops import activations
from hast_cuda.ops.activations import activate, activation_code

X = torch.tensor([-1.0, -0.0, 0.0, 3.0, 6.0, 7.0, float("inf")])


def test_every_way_to_write_an_activation_is_the_activation() -> None:
    for module, name in activations.MODULES.items():
        assert torch.equal(module()(X), activate(X, name))
    for function, name in activations.FUNCTIONS.items():
        assert torch.equal(function(X.clone()), activate(X, name))
    for method, name in activations.METHODS.items():
        assert torch.equal(getattr(X.clone(), method)(), activate(X, name))
    for name, upper in activations.UPPER.items():
        assert torch.equal(X.clamp(0, upper), activate(X, name))


def test_codes_are_those_of_the_core() -> None:
    assert [activation_code(name) for name in (None, "relu", "relu6")] == [0, 1, 2]
    with pytest.raises(ValueError, match="activation is 'gelu'; allowed: None, 'relu', 'relu6'"):
        activation_code("gelu")
