from __future__ import annotations

import pytest
import torch.nn.functional as F
from networks import Branching, tiny
from torch import Tensor, nn

from hast_cuda.networks.ends import end_layers


class Backwards(nn.Module):
    """Registered in another order than called; one layer is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(3, 3)
        self.output, self.stem = nn.Linear(4, 2), nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.output(F.relu(self.stem(x)).mean((2, 3)))
        return result


@pytest.mark.parametrize(
    ("network", "ends"),
    [(tiny(), ("features.0", "output")), (Backwards(), ("stem", "output")), (Branching(), ("conv", "conv"))],
)
def test_layers_that_are_called_first_and_last(network: nn.Module, ends: tuple[str, str]) -> None:
    training = network.training
    assert end_layers(network, (3, 8, 8)) == ends
    assert network.training is training
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="calls no Conv2d or Linear layer"):
        end_layers(nn.ReLU(), (3, 8, 8))
