"""A fixed weight range: one grid whatever the weights become, and where it goes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.nn import quantized_once
from hast_cuda.ops import reference

RANGE = torch.tensor([[-1.0, -0.5, 0.0], [1.0, 0.25, 2.0]])


def layers(bits: int = 3, **options: Any) -> list[Any]:
    """One of each kind, three output channels, range fixed."""
    made = [
        hc.FakeQuantConv2d(2, 3, 3, weight_bits=bits, **options),
        hc.FakeQuantLinear(5, 3, weight_bits=bits, **options),
    ]
    for layer in made:
        layer.fix_weight_range(RANGE)
    return made


def expected(layer: Any, bounds: Tensor = RANGE) -> Tensor:
    """The oracle's weight."""
    lower, upper = bounds.to(layer.weight.device)
    real = layer.zero_point == "real"
    return reference.fake_quantize(layer.weight.detach(), lower, upper, layer.weight_bits, 0, real_zero_point=real)


@pytest.mark.parametrize("zero_point", ["integer", "real"])
def test_weights_lie_on_the_fixed_grid(device: torch.device, zero_point: str) -> None:
    for layer in layers(zero_point=zero_point):
        layer.to(device)
        found = layer.quantized_weight()
        assert torch.equal(found, expected(layer))
        own = reference.fake_quantize_weights([layer.weight.detach()], [3], real_zero_point=zero_point == "real")
        assert not torch.equal(found, own[0])
        with torch.no_grad():
            layer.weight *= 3  # the extremes move, the grid does not
        assert torch.equal(layer.quantized_weight(), expected(layer))
        found.sum().backward()
        assert torch.equal(layer.weight.grad, torch.ones_like(layer.weight))


def test_present_range_is_the_default_and_none_undoes_it(device: torch.device) -> None:
    layer = hc.FakeQuantConv2d(2, 3, 3, weight_bits=3).to(device)
    free = layer.quantized_weight()
    layer.fix_weight_range()
    assert torch.equal(layer.weight_range[0], layer.weight.flatten(1).amin(1))
    assert torch.equal(layer.weight_range[1], layer.weight.flatten(1).amax(1))
    assert torch.equal(layer.quantized_weight(), free)
    with torch.no_grad():
        layer.weight *= 0.5
    fixed = layer.quantized_weight()
    layer.weight_range = None
    assert not torch.equal(layer.quantized_weight(), fixed)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_and_conversions_keep_it(device: torch.device, copied: Any) -> None:
    for layer in layers():
        layer.to(device)
        twin = copied(layer)
        assert torch.equal(twin.quantized_weight(), layer.quantized_weight())
        assert twin.weight_range.data_ptr() != layer.weight_range.data_ptr()
        again = type(layer).from_float(layer, weight_bits=3)
        assert torch.equal(again.quantized_weight(), layer.quantized_weight())
        assert torch.equal(layer.to_float().weight, layer.quantized_weight())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(device: torch.device, dtype: torch.dtype) -> None:
    layer = hc.FakeQuantLinear(5, 3, weight_bits=3).to(device, dtype)
    bounds = torch.tensor([[-0.123456789] * 3, [0.3333333] * 3])
    layer.fix_weight_range(bounds)
    assert torch.equal(layer.quantized_weight(), expected(layer, layer.weight_range))
    assert layer.weight_range.dtype == reference.arithmetic_dtype(dtype)


def test_half_keeps_the_range_exact() -> None:
    layer = layers()[1]
    layer.fix_weight_range(RANGE + 1e-4)
    layer.half()
    assert torch.equal(layer.weight_range, RANGE + 1e-4)
    assert layer.double().weight_range.dtype == torch.float64


def test_state_dict_creates_and_drops_it(device: torch.device) -> None:
    for layer in layers():
        layer.to(device)
        state = layer.state_dict()
        assert set(state) == {"weight", "bias", "weight_range"}
        free = copy.deepcopy(layer)
        free.weight_range = None
        assert set(free.state_dict()) == {"weight", "bias"}
        twin = copy.deepcopy(free)
        twin.load_state_dict(state)
        assert torch.equal(twin.weight_range.cpu(), RANGE)
        assert twin.weight_range.device == twin.weight.device
        assert twin.weight_range.data_ptr() != layer.weight_range.data_ptr()
        twin.load_state_dict({"bias": state["bias"]}, strict=False)  # no weights: nothing changes
        assert twin.weight_range is not None
        twin.load_state_dict(free.state_dict())
        assert twin.weight_range is None


def test_inside_a_network_and_of_the_wrong_size() -> None:
    network = nn.Sequential(*layers()[:1], nn.ReLU())
    plain = hc.quantize(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()), 3, None)
    plain.load_state_dict(network.state_dict())
    assert torch.equal(plain[0].quantized_weight(), network[0].quantized_weight())
    wrong = network.state_dict() | {"0.weight_range": torch.zeros(2, 4)}
    with pytest.raises(RuntimeError, match=r"size mismatch for 0.weight_range"):
        plain.load_state_dict(wrong)


def test_quantized_once_covers_both_kinds(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [hc.FakeQuantLinear(3, 3, weight_bits=b) for b in (3, 4, 5)]
    fixed = layers()
    model = nn.ModuleList([free[0], *fixed, *free[1:]]).to(device)
    wanted = [m.quantized_weight() for m in model]
    together: list[int] = []
    original = hc.nn.quantized_weight.fake_quantize_weights

    def counting(weights: list[Tensor], *args: Any, **kwargs: Any) -> list[Tensor]:
        together.append(len(weights))
        return original(weights, *args, **kwargs)

    monkeypatch.setattr(hc.nn.quantized_weight, "fake_quantize_weights", counting)
    with quantized_once(model):
        assert together == [len(model)]
        for layer, weight in zip(model, wanted, strict=True):
            assert layer.cached_weight is layer.quantized_weight()
            assert torch.equal(layer.quantized_weight(), weight)
    assert all(layer.cached_weight is None for layer in model)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (torch.zeros(2, 4), r"weight_range has shape \(2, 4\); expected \(2, 3\)"),
        (torch.zeros(3, 2), r"weight_range has shape \(3, 2\)"),
        (RANGE.flip(0), "lower must not exceed upper; at index 0"),
        (RANGE / 0.0, "lower and upper must be finite"),
    ],
)
def test_refused_ranges(bounds: Tensor, message: str) -> None:
    for layer in layers():
        with pytest.raises(ValueError, match=message):
            layer.fix_weight_range(bounds)
        assert torch.equal(layer.weight_range, RANGE)
