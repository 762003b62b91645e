"""Cross-layer equalization: nothing changes in the outputs, everything in the weights."""

from __future__ import annotations

import copy

import pytest
import torch
from foldable import build, unit
from networks import Branching, same_state, snapshot
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.networks.layer_graph import LayerGraph
from hast_cuda.networks.statistics import output_moments
from hast_cuda.posttraining import (
    PostTrainingConfig,
    equalize,
    equalize_activations,
    fold_batch_norms,
    prepare,
    replace_relu6,
)


def weights(*values: list[list[float]]) -> nn.Sequential:
    """1x1 convolutions with these weights and ReLU between."""
    layers: list[nn.Module] = []
    for rows in values:
        conv = nn.Conv2d(len(rows[0]), len(rows), 1)
        conv.weight = nn.Parameter(torch.tensor(rows)[..., None, None])
        layers += [conv, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def test_hand_computed_pair() -> None:
    network = weights([[-8.0], [1.0]], [[2.0, -4.0], [1.0, 0.0]])  # magnitudes, not extents
    with torch.no_grad():
        network[0].bias.copy_(torch.tensor([2.0, 3.0]))
    equalize(network)
    # r1 = (8, 1), r2 = (2, 4): s = sqrt(r1/r2) = (2, 1/2)
    assert network[0].weight.flatten().tolist() == pytest.approx([-4.0, 2.0])
    assert network[0].bias.tolist() == pytest.approx([1.0, 6.0])
    assert network[2].weight.flatten().tolist() == pytest.approx([4.0, -2.0, 2.0, 0.0])


@pytest.mark.parametrize(
    ("name", "pairs"), [("resnet20", 9), ("inverted", 0), ("inverted without relu6", 4), ("odd", 4)]
)
def test_outputs_stay_and_ranges_meet(name: str, pairs: int) -> None:
    base, _, plain = name.partition(" ")
    network, x = build(base)
    folded = fold_batch_norms(network)
    if plain:
        replace_relu6(folded)
    expected, before = folded(x), snapshot(folded)
    assert equalize(folded) is folded
    torch.testing.assert_close(folded(x), expected, rtol=1e-9, atol=1e-9)
    found = LayerGraph(folded).pairs()
    assert len(found) == pairs
    assert same_state(folded, before) is not bool(pairs)
    for pair in found:
        first = pair.first.weight.flatten(1).abs().amax(1)
        second = input_ranges(pair.second)
        torch.testing.assert_close(first, second, rtol=1e-4, atol=0)


def input_ranges(layer: nn.Module) -> Tensor:
    """Largest weight of each input channel, from one group at a time."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    parts = layer.weight.chunk(groups)
    return torch.cat([p.transpose(0, 1).flatten(1).abs().amax(1) for p in parts])


def test_pairs_of_the_odd_network() -> None:
    folded = fold_batch_norms(build("odd")[0])
    names = {m: n for n, m in folded.named_modules()}
    found = [(names[p.first], names[p.second], p.rectified) for p in LayerGraph(folded).pairs()]
    assert found == [  # stem's output is used twice
        ("convs.0", "convs.1", True),
        ("convs.1", "convs.2", True),
        ("convs.2", "convs.3", True),
        ("hidden", "output", True),
    ]


@pytest.mark.parametrize(
    "between", [nn.ReLU6(), nn.BatchNorm2d(4), nn.SiLU(), nn.Sigmoid(), nn.Sequential(nn.ReLU(), nn.Flatten(2))]
)
def test_what_scaling_does_not_pass_parts_a_pair(between: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 1), between, nn.Conv2d(4, 3, 1)).eval()
    assert LayerGraph(network).pairs() == []


@pytest.mark.parametrize(
    "between",
    [
        nn.Identity(),
        nn.ReLU(),
        nn.LeakyReLU(0.2),
        nn.MaxPool2d(2, padding=1),
        nn.AvgPool2d(2, padding=1),
        nn.AdaptiveAvgPool2d(2),
        nn.Dropout(),
    ],
)
def test_homogeneous_operations_do_not(between: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 3), between, nn.Conv2d(4, 3, 1)).eval().double()
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    expected, before = network(x), snapshot(network)
    equalize(network)
    torch.testing.assert_close(network(x), expected, rtol=1e-10, atol=1e-10)
    assert not same_state(network, before)
    (pair,) = LayerGraph(network).pairs()
    assert pair.rectified is (type(between) is nn.ReLU)


def test_dead_channels_keep_their_scale() -> None:
    network = weights([[0.0], [3.0]], [[2.0, 0.0], [2.0, 0.0]])
    before = snapshot(network)
    equalize(network)
    assert same_state(network, before)


def test_remembered_moments_are_scaled_along() -> None:
    network = nn.Sequential(unit(2, 4, nn.ReLU(), kernel_size=1), nn.Conv2d(4, 3, 1)).eval()
    with torch.no_grad():
        network[0][1].bias.copy_(torch.arange(4.0))
    folded = fold_batch_norms(network)
    before = folded[0][0].weight.clone()
    equalize(folded)
    scale = (before / folded[0][0].weight)[:, 0].flatten()
    mean, std = output_moments(folded[0][0])
    torch.testing.assert_close(mean, torch.arange(4.0) / scale)
    torch.testing.assert_close(std, 1 / scale)
    assert (scale - 1).abs().max() > 0.01


def test_input_channels_of_a_row_become_alike_which_helps_channelwise_weights() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()
    scale = torch.logspace(-1.5, 1.5, 16)
    with torch.no_grad():
        network[0].weight *= scale.reshape(-1, 1, 1, 1)
        network[0].bias *= scale
        network[2].weight /= scale.reshape(1, -1, 1, 1)
    x = torch.randn(8, 3, 12, 12)
    expected = network(x)

    def error(model: nn.Module) -> float:
        return (hc.quantize(model, 4, None)(x) - expected).square().mean().item()

    before = error(network)
    assert error(equalize(network)) < 0.1 * before


def separable(activation: nn.Module, second: nn.Module) -> nn.Sequential:
    """Convolution, BatchNorm of uneven channels, ``activation``, ``second``; [N, 3, 8, 8] -> maps."""
    torch.manual_seed(3)
    norm = nn.BatchNorm2d(4)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.01, 0.1, -0.5, 0.3]))
        norm.bias.copy_(torch.tensor([0.02, -0.1, 0.5, 5.0]))
        norm.running_mean.normal_()  # type: ignore[union-attr]
        norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm, activation, second).eval().double()


def channel_ranges(network: nn.Sequential) -> Tensor:
    """beta + 8 |gamma| of its BatchNorm, cut at 6."""
    return (network[1].bias + 8 * network[1].weight.abs()).clamp(0, 6).detach()


SECONDS = {"depthwise": lambda: nn.Conv2d(4, 4, 3, groups=4), "dense": lambda: nn.Conv2d(4, 5, 3)}


@pytest.mark.parametrize("kind", SECONDS)
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.2)])
def test_channels_of_activations_meet_and_the_function_stays(activation: nn.Module, kind: str) -> None:
    network = separable(activation, SECONDS[kind]())
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    expected, before = network(x), channel_ranges(network)
    assert equalize_activations(network) is network
    torch.testing.assert_close(network(x), expected, rtol=1e-9, atol=1e-9)
    after = channel_ranges(network)
    assert after.max() == pytest.approx(before.max())
    assert after.max() / after.min() < (1.001 if kind == "depthwise" else 0.7 * before.max() / before.min())


def test_weights_that_pay_more_than_activations_gain_keep_their_channels() -> None:
    """One channel is tiny and the only one with weights: a gain would make its weights smaller than the others."""
    network = separable(nn.ReLU(), SECONDS["dense"]())
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([1.0, 1.0, 1.0, 0.02]))
        network[1].bias.fill_(0.0)
        network[3].weight.copy_(torch.tensor([1e-3, 1e-3, 1e-3, 1e-6])[:, None, None].expand(5, 4, 3, 3))
    quiet = snapshot(network)
    with torch.no_grad():
        network[3].weight[:, 3] = 1.0
    assert not same_state(equalize_activations(copy.deepcopy(network)), snapshot(network))  # its noise counts
    network.load_state_dict(quiet)
    gains = equalize_activations(network)[1].weight / quiet["1.weight"]
    assert gains.tolist() == pytest.approx([1, 1, 1, 1])  # nobody listens to the channel


def test_a_channel_that_relu6_cuts_keeps_its_scale() -> None:
    network = separable(nn.ReLU6(), SECONDS["depthwise"]())
    start = network[1].weight.clone()
    equalize_activations(network)
    gains = (network[1].weight / start).detach()
    assert gains[3] == 1  # 5 + 8 * 0.3 is beyond 6
    assert gains.min() >= 1
    assert gains[0] == pytest.approx(6 / 0.1)


def test_a_folded_network_takes_the_gain_in_its_weights() -> None:
    network = separable(nn.ReLU6(), SECONDS["depthwise"]())
    folded, x = fold_batch_norms(network), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    weight = folded[0].weight.clone()  # type: ignore[index, union-attr, operator]
    equalize_activations(folded)
    torch.testing.assert_close(folded(x), network(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(folded(x), equalize_activations(network)(x), rtol=1e-9, atol=1e-9)
    gains = (folded[0].weight / weight)[:, 0, 0, 0]  # type: ignore[index, union-attr, operator]
    assert gains.tolist() == pytest.approx([60, 8.571, 1.333, 1], rel=1e-3)


@pytest.mark.parametrize("odd", ["shared norm", "no activation", "no moments", "dead"])
def test_activations_without_a_known_range_stay(odd: str) -> None:
    network = separable(nn.ReLU(), SECONDS["dense"]())
    if odd == "shared norm":
        network.append(nn.Conv2d(5, 4, 1).double()).append(network[1])
    if odd == "no activation":
        network[2] = nn.Identity()
    if odd == "no moments":
        network[1] = nn.Identity()
    if odd == "dead":
        with torch.no_grad():
            network[1].weight.zero_()
            network[1].bias.fill_(-1)
    before = snapshot(network)
    assert same_state(equalize_activations(network), before)


def test_a_run_equalizes_what_it_can_follow() -> None:
    network = separable(nn.ReLU6(), SECONDS["depthwise"]())
    prepared = prepare(network, PostTrainingConfig(equalize_activations=True))
    assert not same_state(prepared, snapshot(network))
    branching = Branching().eval()
    with pytest.warns(UserWarning, match="are not balanced .equalize_activations.: "):
        prepared = prepare(branching, PostTrainingConfig(equalize_activations=True))
    assert same_state(prepared, snapshot(branching))
