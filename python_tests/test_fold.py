"""Folding BatchNorm: the same function, and what must not be folded stays."""

from __future__ import annotations

import copy

import pytest
import torch
from foldable import build, kinds, unit
from networks import Branching, DoubledNorm, same_state, snapshot
from torch import nn

import hast_cuda as hc
from hast_cuda.networks.statistics import output_moments
from hast_cuda.posttraining import fold_batch_norms, replace_relu6

REMAINING = {"resnet20": [], "inverted": [], "odd": ["first_norm", "norms.4", "norms.5"]}


@pytest.mark.parametrize("name", REMAINING)
def test_outputs_stay_and_batch_norms_go(name: str) -> None:
    network, x = build(name)
    before = snapshot(network)
    folded = fold_batch_norms(network)
    torch.testing.assert_close(folded(x), network(x), rtol=1e-10, atol=1e-10)
    assert kinds(folded, nn.BatchNorm2d) == REMAINING[name]
    gone = set(kinds(network, nn.BatchNorm2d)) - set(REMAINING[name])
    assert set(kinds(folded, nn.Identity)) - set(kinds(network, nn.Identity)) == gone
    assert same_state(network, before)


def test_hand_computed_values_and_moments() -> None:
    network = unit(1, 2, None, kernel_size=1).eval()
    conv, norm = network
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([2.0, 3.0]).reshape(2, 1, 1, 1))
        norm.weight.copy_(torch.tensor([4.0, -1.0]))
        norm.bias.copy_(torch.tensor([0.5, 7.0]))
        norm.running_mean.copy_(torch.tensor([1.0, 2.0]))
        norm.running_var.copy_(torch.tensor([4.0, 0.25]) - norm.eps)
    folded = fold_batch_norms(network)[0]
    # s = gamma / sqrt(var) = 2, -2
    torch.testing.assert_close(folded.weight.flatten(), torch.tensor([4.0, -6.0]))
    torch.testing.assert_close(folded.bias, torch.tensor([2 * -1 + 0.5, -2 * -2 + 7.0]))
    mean, std = output_moments(folded)
    assert mean.tolist() == [0.5, 7.0]
    assert std.tolist() == [4.0, 1.0]
    assert set(folded.state_dict()) == {"weight", "bias"}  # the moments are not saved
    assert output_moments(conv) is None


def test_moments_go_where_the_layer_goes() -> None:
    folded = fold_batch_norms(unit(2, 3, nn.ReLU(), kernel_size=3).eval())
    student = hc.quantize(folded, 4, 4)
    for layer in (student[0], copy.deepcopy(student)[0], student[0].to_float()):
        assert all(map(torch.equal, output_moments(layer), output_moments(folded[0])))
    assert output_moments(student.double()[0])[0].dtype == torch.float64


def test_requires_grad_mode_and_memory_format_are_kept() -> None:
    network = unit(2, 3, None, kernel_size=3).eval().requires_grad_(False)
    network = network.to(memory_format=torch.channels_last)
    folded = fold_batch_norms(network)
    assert not any(p.requires_grad for p in folded.parameters())
    assert not any(m.training for m in folded.modules())
    assert folded[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_shared_weights_and_wrong_neighbours_are_left_alone() -> None:
    conv, twin = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
    twin.weight = conv.weight
    network = nn.Sequential(conv, nn.BatchNorm2d(2), twin, nn.BatchNorm2d(2)).eval()
    assert kinds(fold_batch_norms(network), nn.BatchNorm2d) == ["1", "3"]
    quantized = hc.quantize(unit(2, 2, None, kernel_size=1).eval(), 4, None)
    assert kinds(fold_batch_norms(quantized), nn.BatchNorm2d) == ["1"]


@pytest.mark.parametrize("norm", [DoubledNorm(3), nn.BatchNorm2d(3, track_running_stats=False), nn.GroupNorm(3, 3)])
def test_other_norms_stay(norm: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 1), norm).eval()
    x = torch.randn(4, 2, 5, 5)
    folded = fold_batch_norms(network)
    assert type(folded[1]) is type(norm)
    torch.testing.assert_close(folded(x), network(x))


def test_relu6_is_replaced_only_when_asked_for() -> None:
    network, x = build("inverted")
    assert len(kinds(fold_batch_norms(network), nn.ReLU6)) == 5
    replaced = replace_relu6(fold_batch_norms(network))
    assert not kinds(replaced, nn.ReLU6)
    assert all(m.inplace for m in replaced.modules() if isinstance(m, nn.ReLU))
    assert len(kinds(replaced, nn.ReLU)) == len(kinds(network, nn.ReLU6))
    assert kinds(network, nn.ReLU6)
    assert not torch.allclose(replaced(x * 50), network(x * 50))


def test_untraceable_network_is_refused() -> None:
    with pytest.raises(ValueError, match=r"torch.fx cannot follow its forward .* without folding"):
        fold_batch_norms(Branching())
