from __future__ import annotations

import pytest
import torch
from networks import tiny
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.finetune.optimizer import IntegerCodes, InundatedSGD, smallest_factor

CPU = torch.device("cpu")


def linear(values: list[list[float]], bits: int = 3) -> hc.FakeQuantLinear:
    weight = torch.tensor(values)
    layer = hc.FakeQuantLinear(weight.shape[1], weight.shape[0], bias=False, weight_bits=bits)
    layer.weight = nn.Parameter(weight)
    return layer


def test_codes_of_several_layers() -> None:
    layers = [linear([[-1, -0.3, 0, 0.4, 2]]), linear([[-1, -0.3, 0, 0.4, 2]], bits=4)]
    codes = IntegerCodes(layers)(torch.cat([layer.weight.flatten() for layer in layers]))
    assert codes.tolist() == [-4, -3, -2, -1, 3, -8, -4, -3, -1, 7]


def test_codes_stand_for_the_quantized_weight() -> None:
    layer = linear(torch.randn(6, 20).tolist(), bits=4)
    codes = IntegerCodes([layer])(layer.weight.detach().flatten()).view(6, 20)
    quantized = layer.quantized_weight().detach()
    for row, values in zip(codes, quantized, strict=True):
        assert len(row.unique()) == len(values.unique())
        assert torch.equal(row.argsort(stable=True), values.argsort(stable=True))


def test_smallest_factor_per_weight() -> None:
    needed = torch.tensor([0.5, 3.0, 37.0, 1e9])
    factors = smallest_factor(lambda f: f >= needed, 4, 100.0, CPU)
    assert factors[0] == 1
    assert 3.0 <= factors[1] <= 3.0 + 2 / 2**5
    assert 37.0 <= factors[2] <= 37.0 + 32 / 2**5
    assert 99 < factors[3] <= 100


def optimizer_of(layer: nn.Module, goal: float, largest: float = 100.0) -> InundatedSGD:
    config = FinetuneConfig(flip_fraction=goal, largest_step=largest, weight_decay=0.0)
    return InundatedSGD(layer.parameters(), layer, 0.01, config)


def test_a_step_changes_as_many_codes_as_asked() -> None:
    layer = linear(torch.randn(8, 64).tolist())
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.randn(8, 64) * 1e-2
    optimizer = optimizer_of(layer, 0.02)
    codes, old = optimizer.codes, optimizer.codes(before.flatten())
    plain = before - 0.01 * 1.9 * layer.weight.grad  # the first step of Nesterov momentum
    assert codes.changed(old, codes(plain.flatten())) < 0.02
    optimizer.step()
    after = layer.weight.detach()
    assert float(codes.changed(old, codes(after.flatten()))) >= 0.02
    shorter = before + 0.9 * (after - before)
    assert float(codes.changed(old, codes(shorter.flatten()))) < 0.02
    factor = (after - before).norm() / (plain - before).norm()
    torch.testing.assert_close(after, before + factor * (plain - before), rtol=0, atol=1e-4)
    # the momentum is that of plain SGD
    buffer = optimizer.state[layer.weight]["momentum_buffer"]
    assert torch.equal(buffer, layer.weight.grad)


def test_a_gradient_of_zero_ends_at_once() -> None:
    layer = linear([[1.0, 2.0, 3.0]])
    layer.weight.grad = torch.zeros(1, 3)
    optimizer_of(layer, 0.5).step()
    assert layer.weight.tolist() == [[1.0, 2.0, 3.0]]


def test_steps_are_bounded() -> None:
    layer = linear([[1.0, 2.0, 3.1]])
    layer.weight.grad = torch.full((1, 3), 1e-3)  # a shift moves the range along: no code changes
    optimizer_of(layer, 0.5, largest=10.0).step()
    moved = torch.tensor([[1.0, 2.0, 3.1]]) - layer.weight.detach()
    torch.testing.assert_close(moved, torch.full((1, 3), 10 * 0.01 * 1.9e-3), rtol=0.05, atol=0)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_without_a_goal_it_is_sgd(decay: float) -> None:
    networks = [hc.quantize(tiny(), 3, None) for _ in range(2)]
    config = FinetuneConfig(weight_decay=decay, largest_step=1.0)
    ours = InundatedSGD(networks[0].parameters(), networks[0], 1e-4, config)
    theirs = torch.optim.SGD(networks[1].parameters(), lr=1e-4, momentum=0.9, nesterov=True, weight_decay=decay)
    x: Tensor = torch.randn(4, 3, 8, 8)
    for _ in range(3):
        for network, optimizer in zip(networks, (ours, theirs), strict=True):
            optimizer.zero_grad()
            network.eval()(x).square().sum().backward()
            optimizer.step()
    for a, b in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(a, b)


def test_nothing_to_count() -> None:
    plain = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="no quantized weight is trained"):
        optimizer_of(plain, 0.1)
