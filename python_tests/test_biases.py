"""Bias absorption and bias correction: exact where they can be, and right on average."""

from __future__ import annotations

import math

import pytest
import torch
from foldable import build
from networks import Branching, same_state, snapshot
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.moments import batch_norm_ranges
from hast_cuda.networks.statistics import output_moments, set_output_moments
from hast_cuda.posttraining import absorb_biases, correct_biases, fold_batch_norms, squant


def pair(between: nn.Module | None = None, **options: int) -> nn.Sequential:
    """Two convolutions; the first remembers N(4, 1) and N(1, 1)."""
    torch.manual_seed(0)
    second = nn.Conv2d(2, 4, **({"kernel_size": 3} | options))
    network = nn.Sequential(nn.Conv2d(2, 2, 1), between or nn.ReLU(), second).eval().double()
    set_output_moments(network[0], torch.tensor([4.0, 1.0]), torch.ones(2))
    return network


def test_hand_computed_absorption() -> None:
    network = pair()
    old = snapshot(network)
    assert absorb_biases(network) is network
    moved = torch.tensor([1.0, 0.0], dtype=torch.float64)  # max(0, beta - 3 gamma)
    torch.testing.assert_close(network[0].bias, old["0.bias"] - moved)
    added = old["2.weight"][:, 0].sum((1, 2))
    torch.testing.assert_close(network[2].bias, old["2.bias"] + added)
    mean, std = output_moments(network[0])
    assert (mean.tolist(), std.tolist()) == ([3.0, 1.0], [1.0, 1.0])
    assert torch.equal(network[2].weight, old["2.weight"])


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_absorption_is_exact_above_the_constant(groups: int, bias: bool) -> None:
    network = pair(nn.Sequential(nn.Dropout(), nn.ReLU()), groups=groups, bias=bias)
    network[0].weight.data *= 0.1
    network[0].bias.data[0] = 4.0  # ReLU never cuts channel 0, not even what is left of it
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    expected = network(x)
    absorb_biases(network)
    assert network[0].bias[0].item() == 3.0
    torch.testing.assert_close(network(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("between", [nn.LeakyReLU(), nn.ReLU6(), nn.Identity(), nn.AvgPool2d(2)])
def test_absorption_needs_relu_and_nothing_else(between: nn.Module) -> None:
    network, forgetful = pair(between), pair()
    del forgetful[0].output_mean
    for model in (network, forgetful):  # or there are no moments
        before = snapshot(model)
        assert same_state(absorb_biases(model), before)


def test_absorption_lowers_the_ranges_of_a_folded_network() -> None:
    network, x = build("resnet20", torch.float32)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data += 20
    folded = fold_batch_norms(network)
    wide = batch_norm_ranges(hc.quantize(folded, 4, 4))
    narrow = batch_norm_ranges(hc.quantize(absorb_biases(folded), 4, 4))
    before, after = (hc.nn.activation_quantizers(m) for m in (wide, narrow))
    shares = [float(after[name].upper / q.upper) for name, q in before.items()]
    assert max(shares) < 1.0001
    assert sum(share < 0.8 for share in shares) == 9  # one pair in each block
    assert torch.isfinite(folded(x)).all()


def gaussian_network() -> nn.Sequential:
    """A first layer that passes images on, N(beta, gamma^2); ReLU; a layer to correct."""
    torch.manual_seed(2)
    first = nn.Conv2d(3, 3, 1, groups=3)
    mean, std = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([1.0, 2.0, 0.5])
    with torch.no_grad():
        first.weight.copy_(std.reshape(3, 1, 1, 1))
        first.bias.copy_(mean)
    set_output_moments(first, mean, std)
    return nn.Sequential(first, nn.ReLU(), nn.Conv2d(3, 8, 3)).eval().requires_grad_(False)


def expected_inputs() -> Tensor:
    """Means of the rectified Gaussians, written with the error function."""
    means = []
    for beta, gamma in ((0.5, 1.0), (-1.0, 2.0), (2.0, 0.5)):
        t = beta / gamma
        density = math.exp(-t * t / 2) / math.sqrt(2 * math.pi)
        means.append(gamma * density + beta * (1 + math.erf(t / math.sqrt(2))) / 2)
    return torch.tensor(means, dtype=torch.float64)


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("rounding", ["nearest", "squant"])
def test_hand_computed_correction(device: torch.device, bits: int, rounding: str) -> None:
    network = gaussian_network().to(device)
    student = hc.quantize(network, bits, None)
    if rounding == "squant":
        squant(student)
    assert correct_biases(student, network) is student
    error = (student[2].quantized_weight() - network[2].weight).double().cpu().sum((2, 3))
    shift = (error @ expected_inputs()).float().to(device)
    torch.testing.assert_close(student[2].bias, network[2].bias - shift)
    assert float(shift.abs().max()) > 1e-3
    # 1x1 depthwise weights are their own range, and the image's mean is 0
    torch.testing.assert_close(student[0].bias, network[0].bias)


def test_outputs_are_right_on_average_afterwards() -> None:
    network = gaussian_network()
    student = hc.quantize(network, 2, None)
    x = torch.randn(400, 3, 12, 12)

    def offset() -> float:
        return (student(x) - network(x)).mean((0, 2, 3)).abs().max().item()

    before = offset()
    correct_biases(student, network)
    assert offset() < 0.05 * before


def test_groups_and_flattened_inputs() -> None:
    torch.manual_seed(1)
    network = (
        nn.Sequential(
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 6, 3, groups=2, bias=False),
            nn.BatchNorm2d(6),
            nn.Flatten(),
            nn.Linear(24, 3),
        )
        .eval()
        .requires_grad_(False)
    )
    for norm in (network[0], network[2]):
        nn.init.normal_(norm.bias)
    student = correct_biases(hc.quantize(network, 3, None), network)
    errors = [student[i].quantized_weight() - network[i].weight for i in (1, 4)]
    means = network[0].bias.reshape(2, 2), network[2].bias.repeat_interleave(4)
    grouped = [errors[0][3 * g : 3 * g + 3].sum((2, 3)) @ means[0][g] for g in range(2)]
    torch.testing.assert_close(student[1].bias, -torch.cat(grouped))  # it had none
    torch.testing.assert_close(student[4].bias, network[4].bias - errors[1] @ means[1])


def test_unknown_inputs_are_left_alone() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.PReLU(), nn.Conv2d(3, 4, 3)).eval()
    student = hc.quantize(network, 2, None)
    before = snapshot(student)
    assert same_state(correct_biases(student, network), before)


def test_refused_networks() -> None:
    network, odd = gaussian_network(), Branching()
    student = hc.quantize(network, 4, None)
    for model in (network[:2], nn.Sequential(*network[:2], nn.Conv2d(3, 8, 1))):
        with pytest.raises(ValueError, match="layer '2' of the student has no counterpart"):
            correct_biases(student, model)
    with pytest.raises(ValueError, match=r"torch.fx cannot follow .* without bias correction"):
        correct_biases(hc.quantize(odd, 4, None), odd)
