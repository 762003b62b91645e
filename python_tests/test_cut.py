from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from networks import Branching, pictures, tiny
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.networks.cut import cut_into_blocks
from hast_cuda.networks.tracing import CannotMergeError


class Unit(nn.Module):
    """A residual unit whose activation and sum are written as functions."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1])))


class Plain(nn.Module):
    """A unit without a branch; its class makes it one block all the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.ReLU6(), nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(x)
        return result


class Residual(nn.Module):
    """Stem, two residual units, two plain ones, a sum outside of any, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.units = nn.Sequential(Unit(4, 4), Unit(4, 6), Plain(6), Plain(6))
        self.left, self.right = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)
        self.output = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.units(F.max_pool2d(F.relu(self.norm(self.stem(x))), 2))
        x = self.left(x) + self.right(x)
        result: Tensor = self.output(x.mean((2, 3)))
        return result


def names(model: nn.Module) -> list[str]:
    return [block.name for block in cut_into_blocks(model)]


def chained(model: nn.Module, x: Tensor) -> Tensor:
    for block in cut_into_blocks(model):
        x = block.network(x)
    return x


def test_blocks_are_units_branches_and_layers() -> None:
    expected = ["stem", "units.0", "units.1", "units.2", "units.3", "left", "output"]
    assert names(Residual()) == expected


def test_norm_and_activation_go_with_the_layer_before_pooling_with_the_one_behind() -> None:
    first, second, *_ = cut_into_blocks(Residual().eval())
    assert [n.target for n in first.network.graph.nodes][1:4] == ["stem", "norm", F.relu]
    assert next(n.target for n in second.network.graph.nodes if n.op == "call_function") is F.max_pool2d


@pytest.mark.parametrize("placement", ["relu", "all"])
def test_a_quantized_network_is_cut_where_the_original_is(placement: str) -> None:
    with pytest.warns(UserWarning, match="F.relu") if placement == "relu" else torch.no_grad():
        student = hc.quantize(Residual().eval(), 4, 4, placement=placement)
    assert names(student) == names(Residual())


def test_the_chain_is_the_network() -> None:
    for network in (Residual().eval(), tiny(), hc.quantize(tiny(), 4, None)):
        x = pictures(4)
        assert torch.equal(chained(network, x), network(x))


def test_blocks_share_the_modules() -> None:
    network = tiny()
    blocks = cut_into_blocks(network)
    assert [block.name for block in blocks] == ["features.0", "features.3", "output"]
    with torch.no_grad():
        network.output.weight.zero_()
    assert not torch.count_nonzero(blocks[-1].network(torch.ones(1, 8, 2, 2)) - network.output.bias)


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(CannotMergeError, match="cannot follow"):
        cut_into_blocks(Branching())
    with pytest.raises(CannotMergeError, match="no convolution or linear layer"):
        cut_into_blocks(nn.Sequential(nn.ReLU()))


class TwoResults(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x)
        return y, y


def test_a_result_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(CannotMergeError, match="not one tensor"):
        cut_into_blocks(TwoResults())


def test_a_value_that_is_read_later_is_not_cut_off() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.second(self.first(x))
            result: Tensor = self.last(torch.cat((x, y), 1))
            return result

    assert names(Dense()) == ["first", "last"]
