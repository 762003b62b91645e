"""Which layers are merged into one: a BatchNorm, the sum and the activation behind it, in any spelling."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from merging import build, fused
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.merged import FusedBatchNorm2d, merge_batch_norms

pytestmark = pytest.mark.filterwarnings("ignore:calls of functions such as F.relu")  # Odd has them


@pytest.mark.parametrize(("name", "chains"), [("resnet20_cifar10", 21), ("mobilenetv2", 53), ("odd", 7)])
def test_every_batch_norm_is_merged_with_what_follows(name: str, chains: int) -> None:
    network, _ = build(name)
    merged = merge_batch_norms(network, FusedBatchNorm2d).model
    assert len(fused(merged)) == chains
    assert not any(isinstance(m, (nn.ReLU, nn.ReLU6)) for m in merged.modules())


def test_chains_of_the_odd_network() -> None:
    network, x = build("odd")
    student = hc.calibrate(hc.quantize(network, 4, 4, placement="relu"), [x])
    merged = merge_batch_norms(student.eval(), FusedBatchNorm2d).model
    targets = {str(n.target): n for n in merged.graph.nodes if n.op == "call_module"}
    norms = [(merged.get_submodule(f"norms.{i}"), targets[f"norms.{i}"]) for i in range(7)]
    found = [(m.activation, m.quantizer is not None, len(node.args) == 2) for m, node in norms]
    assert found == [
        ("relu", True, False),  # the reused ReLU became a quantizer
        ("relu6", False, False),  # functional: no quantizer, but merged
        (None, False, True),
        ("relu", False, True),
        (None, False, True),  # the sum has it on the right
        ("relu", True, True),  # runs unfused: the residual is broadcast
        (None, False, False),  # used twice
    ]
    torch.testing.assert_close(merged(x), student(x), rtol=1e-9, atol=1e-10)


def test_outputs_used_twice_are_split_where_that_is_safe() -> None:
    network, _ = build("resnet20_cifar10")
    merged = merge_batch_norms(network, FusedBatchNorm2d).model
    assert sum(m.twice for m in fused(merged)) == 9  # the stem and eight of nine units
    odd, _ = build("odd")
    merged = merge_batch_norms(odd, FusedBatchNorm2d).model
    assert [merged.get_submodule(f"norms.{i}").twice for i in (0, 6)] == [True, False]


class Right(nn.Module):
    """A sum with the BatchNorm on the right, written in a way that is asked for."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.relu, self.join = nn.BatchNorm2d(4), nn.ReLU(inplace=True), join

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, 4, H, W]."""
        x = self.first(x)
        return self.relu(self.join(x, self.norm(self.second(x))))


def _iadd(x: Tensor, y: Tensor) -> Tensor:
    x += y
    return x


def _read_later(x: Tensor, y: Tensor) -> Tensor:
    x += y
    return F.relu(x) * x


def _view_read_later(x: Tensor, y: Tensor) -> Tensor:
    before = x.flatten(2)
    x += y
    return F.relu(x) * before.reshape(x.shape)


def _relu_in_place_after(x: Tensor, y: Tensor) -> Tensor:
    total = y + x
    x.relu_()
    return F.relu(total)


def _relu_in_place_later(x: Tensor, y: Tensor) -> Tensor:
    return F.relu(y + x) + F.relu_(x)


@pytest.mark.parametrize(
    ("join", "sums"),
    [
        (lambda x, y: x + y, True),
        (torch.add, True),
        (lambda x, y: x.add(y), True),
        (lambda x, y: x.add_(y), True),
        (_iadd, True),  # nobody reads the edited operand
        (lambda x, y: torch.add(x, y, alpha=2), False),
        (lambda x, y: x - y, False),
        (_read_later, True),  # as the result of the sum
        (_view_read_later, False),
        (_relu_in_place_after, False),  # between the sum and its activation
        (_relu_in_place_later, True),
    ],
)
def test_sums_are_merged_in_either_order_unless_an_edit_would_be_missed(
    join: Callable[[Tensor, Tensor], Tensor], sums: bool
) -> None:
    torch.manual_seed(0)
    network, x = Right(join).eval(), torch.randn(2, 3, 5, 5)
    network.norm.running_mean.normal_()
    with torch.no_grad():
        merged = merge_batch_norms(network, FusedBatchNorm2d).model
        (node,) = [n for n in merged.graph.nodes if n.target == "norm"]
        assert (len(node.args) == 2) is sums
        torch.testing.assert_close(merged(x), network(x))


def test_synchronised_batch_norm_is_merged() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4), nn.ReLU()).eval()
    merged = merge_batch_norms(network, FusedBatchNorm2d).model
    assert [m.activation for m in fused(merged)] == ["relu"]


def test_long_networks_are_copied() -> None:
    unit = [nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.ReLU()]
    network = nn.Sequential(*copy.deepcopy(unit * 200)).eval()
    merged, x = merge_batch_norms(network, FusedBatchNorm2d).model, torch.ones(1, 2, 2, 2)
    assert torch.equal(copy.deepcopy(merged)(x), merged(x))
