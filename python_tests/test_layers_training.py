"""Quantized layers in training: gradients, autocast, compilation, and weights quantized once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import hast_cuda as hc
from hast_cuda.nn import quantized_once


@pytest.mark.parametrize("act_bits", [None, 4])
def test_gradients_are_straight_through(device: torch.device, act_bits: int | None) -> None:
    layer = hc.FakeQuantConv2d(3, 4, 3, weight_bits=2, act_bits=act_bits).to(device)
    x = torch.randn(2, 3, 6, 6, device=device, requires_grad=True)
    y = layer(x)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    # the float convolution at the quantized point has the same derivatives
    at = x.detach() if layer.input_quantizer is None else layer.input_quantizer(x).detach()
    twins = [
        t.requires_grad_()
        for t in (at, hc.fake_quantize_weights([layer.weight.detach()], 2)[0], layer.bias.detach().clone())
    ]
    expected = torch.autograd.grad(F.conv2d(*twins), twins, upstream)
    for found, wanted in zip((x.grad, layer.weight.grad, layer.bias.grad), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_strangers_network_trains(device: torch.device) -> None:
    network = nn.Sequential(
        hc.FakeQuantConv2d(1, 8, 3, padding=1, weight_bits=3),
        nn.BatchNorm2d(8),
        hc.FakeQuantActivation(3, activation="relu"),
        hc.FakeQuantConv2d(8, 8, 3, stride=2, weight_bits=3),
        hc.FakeQuantActivation(3, activation="relu"),
        nn.Flatten(),
        hc.FakeQuantLinear(72, 4, weight_bits=3),
    ).to(device)
    x, labels = torch.randn(32, 1, 8, 8, device=device), torch.arange(32, device=device) % 4
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("act_bits", [None, 4])
def test_autocast(device: torch.device, act_bits: int | None) -> None:
    conv = hc.FakeQuantConv2d(2, 4, 3, weight_bits=4, act_bits=act_bits).to(device)
    linear = hc.FakeQuantLinear(4, 3, weight_bits=4, act_bits=act_bits).to(device)
    x = torch.randn(2, 2, 3, 3, device=device)
    exact = linear(conv(x).flatten(1))
    with torch.autocast(device.type, dtype=torch.bfloat16):
        y = linear(conv(x).flatten(1))
        y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), exact, rtol=0.1, atol=0.3 if act_bits else 0.02)
    for parameter in (*conv.parameters(), *linear.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32


def test_compiles_without_graph_break(device: torch.device) -> None:
    network = nn.Sequential(
        hc.FakeQuantConv2d(2, 3, 3, weight_bits=3, act_bits=4),
        hc.FakeQuantActivation(4, activation="relu"),
        nn.Flatten(),
        hc.FakeQuantLinear(27, 2, weight_bits=4),
    ).to(device)
    x = torch.randn(2, 2, 5, 5, device=device)
    network(x)
    hc.freeze_ranges(network)
    network(x).sum().backward()
    eager = [p.grad for p in network.parameters()]
    network.zero_grad()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), network(x))
    compiled(x).sum().backward()
    for parameter, gradient in zip(network.parameters(), eager, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


class Branches(nn.Module):
    """Three layers of different zero points; ``unused`` is never reached."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = hc.FakeQuantConv2d(2, 4, 3, weight_bits=3)
        self.head = hc.FakeQuantLinear(16, 3, weight_bits=4, zero_point="real")
        self.unused = hc.FakeQuantLinear(3, 3, weight_bits=4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.conv(x).flatten(1))
        return result


def gradients(network: nn.Module, step: Callable[[], None]) -> list[Tensor | None]:
    """Parameter gradients that ``step`` leaves."""
    network.zero_grad(set_to_none=True)
    step()
    return [p.grad for p in network.parameters()]


def test_quantized_once_changes_no_output_and_no_gradient(device: torch.device) -> None:
    network, (x, other) = Branches().to(device), torch.randn(2, 2, 2, 4, 4, device=device)

    def both() -> None:
        network(x).square().sum().backward()
        network(other).square().sum().backward()

    expected, plain = gradients(network, both), network(x)
    with quantized_once(network):
        assert torch.equal(network(x), plain)
        found = gradients(network, both)
    assert [g is None for g in found] == [False] * 4 + [True] * 2
    assert [g is None for g in found] == [g is None for g in expected]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_quantized_once_really_quantizes_once(device: torch.device) -> None:
    network, x = Branches().to(device), torch.randn(2, 2, 4, 4, device=device)
    with quantized_once(network):
        before = network(x)
        with torch.no_grad():
            network.conv.weight.zero_()
        assert torch.equal(network(x), before)  # the documented price of reuse
    assert not torch.equal(network(x), before)


def test_quantized_once_forgets_the_weights_after_an_exception(device: torch.device) -> None:
    network = Branches().to(device)
    with pytest.raises(RuntimeError, match="mat1 and mat2"), quantized_once(network):
        network(torch.randn(2, 2, 9, 9, device=device))
    assert all(m.cached_weight is None for m in network.children())


def test_quantized_once_inside_itself_and_without_layers(device: torch.device) -> None:
    network, x = Branches().to(device), torch.randn(2, 2, 4, 4, device=device)
    with quantized_once(network), quantized_once(nn.ReLU()):
        with quantized_once(network.conv):
            inner = network(x)
        assert torch.equal(network(x), inner)


def test_quantized_once_refuses_bits_changed_to_nonsense() -> None:
    network = Branches()
    network.conv.weight_bits = 12
    with pytest.raises(ValueError, match=r"bits\[0\] is 12; allowed: 2 to 8"), quantized_once(network):
        pass
    assert network.head.cached_weight is None


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_tracks_what_is_seen_once(device: torch.device, reentrant: bool) -> None:
    """Activations that the backward pass computes again are no further update of the moving average."""
    states, losses = [], []
    for again in (False, True):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3), hc.FakeQuantActivation(3, activation="relu"), hc.FakeQuantConv2d(4, 4, 3, act_bits=3)
        ).to(device)
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        for step in range(3):
            x = torch.linspace(-1, 1 + step, 192, device=device).view(1, 3, 8, 8).requires_grad_()
            y = checkpoint(network, x, use_reentrant=reentrant) if again else network(x)
            loss = y.square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        states.append(network.state_dict())
    assert losses[:3] == losses[3:]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
