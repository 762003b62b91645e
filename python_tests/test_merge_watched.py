"""Layers that are watched in a merged network: their outputs, energies and distances as hooks see them."""

from __future__ import annotations

import copy

import pytest
import torch
from merging import build, fused
from networks import draw_batch_norms, outputs_of
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.merged import FusedBatchNorm2d, merge_batch_norms
from hast_cuda.merged.followed import follow
from hast_cuda.networks import CannotMergeError, Tap


def test_watched_layers_are_called_once() -> None:
    network, _ = build("odd")
    layers = ["norms.2", "norms.4", "convs.5", "relu"]
    with pytest.raises(CannotMergeError, match="relu is called 2 times"):
        merge_batch_norms(network, FusedBatchNorm2d, layers)
    merged = merge_batch_norms(network, FusedBatchNorm2d, layers[:3])
    kinds = [type(merged.watched[name]) for name in layers[:3]]
    assert kinds == [FusedBatchNorm2d, FusedBatchNorm2d, Tap]


@pytest.mark.parametrize("merge", [False, True])
def test_distances_from_another_network(merge: bool) -> None:
    layers = ["norms.2", "convs.5", "norms.4"]
    executed = ["norms.2", "norms.4", "convs.5"]  # how hooks see them
    network, x = build("odd")
    other = copy.deepcopy(network)
    for parameter in other.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    first, second = follow((network, other), layers, merge=merge, maps=True)
    target = first(x)
    found = second(x, target)
    first.remove()
    second.remove()
    maps, others = (dict(zip(executed, outputs_of(n, executed, x)[1], strict=True)) for n in (network, other))
    names = layers if merge else executed
    for name, own, distance in zip(names, target.maps, found.distances, strict=True):
        torch.testing.assert_close(own, maps[name])
        torch.testing.assert_close(distance, (others[name] - maps[name]).square().sum((2, 3)))
    assert found.positions == [256] * 3


class Block(nn.Module):
    """Ends with an activation; the sum is a module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))
        self.join = Join()
        self.end = nn.Sequential(nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> same."""
        result: Tensor = self.end(self.join(self.body(x), x))
        return result


class Join(nn.Module):
    """A sum."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x + y."""
        return x + y


def blocks() -> tuple[nn.Module, Tensor]:
    """Two blocks and a classifier, in float64, and a batch."""
    torch.manual_seed(4)
    network = nn.Sequential(Block(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    draw_batch_norms(network)
    return network.double(), torch.randn(2, 3, 6, 6, dtype=torch.float64)


@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize(
    "layers",
    [
        ["0", "1"],  # a block is its last ReLU
        ["0.body.1", "0.body", "0.join", "0.end.0", "0.end", "0"],  # several names of one output
    ],
)
def test_outputs_inside_and_at_the_end_of_chains_are_watched(layers: list[str], maps: bool) -> None:
    network, x = blocks()
    student = hc.calibrate(hc.quantize(network, 4, 4), [x]).eval()
    results = []
    for merge in (False, True):
        pair = follow((network, student), layers, merge=merge, maps=maps)
        target = pair[0](x)
        found = pair[1](x, target if maps else None)
        results.append((found.logits, found.distances if maps else found.energies, target.maps))
        assert len(found.positions) == len(layers)
        for followed in pair:
            followed.remove()
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-10)


def test_a_watched_sum_keeps_the_activation_behind_it_apart() -> None:
    network, x = blocks()
    merged = merge_batch_norms(network, FusedBatchNorm2d, ["0.join"])
    assert [m.activation for m in fused(merged.model)] == [None, "relu"]
    merged.model(x)
    (expected,) = outputs_of(network[0].body, ["1"], x)[1]
    torch.testing.assert_close(merged.watched["0.join"].take(), expected + x)


def test_nothing_to_take_is_said() -> None:
    with pytest.raises(RuntimeError, match="nothing has passed this Tap"):
        Tap().take()
    module = FusedBatchNorm2d(nn.BatchNorm2d(3), "relu", None)
    with pytest.raises(RuntimeError, match="set watched, and run a forward pass"):
        module.take()
    with pytest.raises(RuntimeError, match="set mapped, and run a forward pass"):
        module.take_map()
