"""What merging leaves as it is: networks that torch.fx cannot follow, and layers that do more."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from merging import build, fused
from networks import Branching, DoubledNorm, hooked_norm
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.finetune.step import FinetuneStep
from hast_cuda.merged import BatchStatistics, FusedBatchNorm2d, MatchedBatchNorm2d, merge_batch_norms
from hast_cuda.networks import CannotMergeError, Tap


def test_what_cannot_be_followed_keeps_its_layers_and_says_so_once() -> None:
    network = Branching().eval()
    with pytest.raises(CannotMergeError, match=r"torch\.fx cannot follow its forward \(TraceError"):
        merge_batch_norms(network, FusedBatchNorm2d)
    with pytest.warns(UserWarning, match="not merged .* torch.fx cannot follow") as found:
        statistics = BatchStatistics(copy.deepcopy(network), merge=True)
    assert len(found) == 1
    statistics.model(torch.randn(2, 3, 8, 8))
    assert float(statistics.loss().detach()) > 0
    student = hc.quantize(network, 4, None).eval().requires_grad_(True)
    with pytest.warns(UserWarning, match="not merged") as found:
        step = FinetuneStep(network.requires_grad_(False), student, ["norm"], FinetuneConfig())
    assert len(found) == 1
    assert float(step(torch.randn(2, 3, 8, 8))[1]) > 0


class Flagged(nn.Module):
    """Gives more than logits where it is asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x: Any = None, features: bool = False, *, scale: float = 2.0, mask: Any = None) -> Any:
        """[N, 3, H, W] -> [N, 4]."""
        y = self.body(x) * scale
        y = y if mask is None else y * mask
        return (y.mean((2, 3)), y) if features else y.mean((2, 3))


def test_arguments_of_forward_have_their_defaults() -> None:
    network, x = Flagged().eval(), torch.randn(2, 3, 6, 6)
    merged = merge_batch_norms(network, FusedBatchNorm2d).model
    assert len(fused(merged)) == 1
    assert [n.target for n in merged.graph.nodes if n.op == "placeholder"] == ["x"]
    torch.testing.assert_close(merged(x), network(x))


def test_hooks_are_not_lost() -> None:
    network, x = build("odd")
    calls: list[int] = []
    backward = network.relu.register_full_backward_pre_hook(lambda *_: None)
    with pytest.raises(CannotMergeError, match="relu has hooks"):
        merge_batch_norms(network, FusedBatchNorm2d)
    backward.remove()
    network.relu.register_forward_hook(lambda *_: calls.append(1))
    with pytest.warns(UserWarning, match="hooks"):
        BatchStatistics(network.requires_grad_(False), merge=True).model(x)
    assert len(calls) == 2


def patched() -> nn.BatchNorm2d:
    """One object with another forward than its class."""
    norm = nn.BatchNorm2d(4)
    plain = norm.forward
    norm.forward = lambda x: 2 * plain(x)  # type: ignore[method-assign]
    return norm


class OwnNorm(nn.Module):
    """Has running statistics and a forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(4))
        self.register_buffer("running_var", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise by hand."""
        mean, var = (t[:, None, None] for t in (self.running_mean, self.running_var))
        return (x - mean) / (var + 1e-5).sqrt()


@pytest.mark.parametrize("norm", [lambda: DoubledNorm(4), patched, lambda: hooked_norm(4), OwnNorm])
def test_a_batch_norm_that_does_more_stays_as_it_is(norm: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), norm(), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
    ).eval()
    x = torch.randn(2, 3, 9, 9)
    expected = network(x)
    merged = merge_batch_norms(network, FusedBatchNorm2d, ["1"])
    assert len(fused(merged.model)) == 1
    assert isinstance(merged.watched["1"], Tap)
    torch.testing.assert_close(merged.model(x), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # hooks of its own are nothing to warn of
        statistics = BatchStatistics(network.requires_grad_(False), merge=True)
    torch.testing.assert_close(statistics.model(x), expected)
    first, second = statistics.layers
    torch.testing.assert_close(first.batch_mean, network[0](x).mean((0, 2, 3)))
    assert isinstance(second, MatchedBatchNorm2d)


def test_a_patched_activation_stays_as_it_is() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    network[2].forward = lambda x: x.relu() + 1  # type: ignore[method-assign]
    x = torch.randn(2, 3, 9, 9)
    merged = merge_batch_norms(network, FusedBatchNorm2d).model
    torch.testing.assert_close(merged(x), network(x))


def test_a_batch_norm_called_twice_stays_as_it_is() -> None:
    shared = nn.BatchNorm2d(3)
    network = nn.Sequential(shared, nn.ReLU(), nn.Conv2d(3, 3, 1), shared, nn.ReLU()).eval()
    merged = merge_batch_norms(network, FusedBatchNorm2d).model
    assert not fused(merged)
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(merged(x), network(x))
