"""FakeQuantConv2d and FakeQuantLinear: drop-in for their float twins, in every configuration."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import hast_cuda as hc
from hast_cuda.ops import reference

CONVS: list[dict[str, Any]] = [
    {"kernel_size": 3},
    {"kernel_size": 3, "padding": 1, "bias": False},
    {"kernel_size": (3, 1), "padding": (1, 2), "stride": (2, 1)},
    {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 2},
    {"kernel_size": 3, "padding": "same", "groups": 4, "bias": False},  # depthwise
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    {"kernel_size": 3, "padding": (2, 1), "padding_mode": "circular", "stride": 2},
    {"kernel_size": 5, "padding": "same", "padding_mode": "replicate", "dilation": 2, "groups": 2},
]


def grid(weight: Tensor, bits: int, zero_point: str = "integer") -> Tensor:
    """The oracle's quantized weight."""
    real = zero_point == "real"
    return reference.fake_quantize_weights([weight.detach()], [bits], real_zero_point=real)[0]


def conv_oracle(x: Tensor, weight: Tensor, conv: nn.Conv2d) -> Tensor:
    """The convolution of ``conv`` with another weight, spelled out with F.pad and F.conv2d."""
    padding: Any = conv.padding
    if conv.padding_mode != "zeros":
        sides = [side for side in reversed(_pads(conv)) for _ in range(2)]
        x, padding = F.pad(x, sides, mode=conv.padding_mode), 0
    return F.conv2d(x, weight, conv.bias, conv.stride, padding, conv.dilation, conv.groups)


def _pads(conv: nn.Conv2d) -> list[int]:
    if conv.padding == "same":
        return [d * (k - 1) // 2 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    return [int(p) for p in conv.padding]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("zero_point", ["integer", "real"])
@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5)])
def test_linear_equals_linear_with_the_quantized_weight(
    device: torch.device, shape: tuple[int, ...], bias: bool, zero_point: str
) -> None:
    layer = hc.FakeQuantLinear(5, 7, bias, weight_bits=4, zero_point=zero_point).to(device)
    x = torch.randn(shape, device=device)
    assert torch.equal(layer.quantized_weight(), grid(layer.weight, 4, zero_point))
    expected = F.linear(x, grid(layer.weight, 4, zero_point), layer.bias)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("bias", [False, True])
def test_state_dict_is_that_of_the_float_layer(device: torch.device, bias: bool) -> None:
    pairs = [
        (nn.Conv2d(3, 4, 3, bias=bias), hc.FakeQuantConv2d(3, 4, 3, bias=bias)),
        (nn.Linear(3, 4, bias), hc.FakeQuantLinear(3, 4, bias)),
    ]
    for plain, layer in pairs:
        assert list(layer.state_dict()) == list(plain.state_dict())
        layer.to(device).load_state_dict(plain.state_dict(), strict=True)
        assert torch.equal(layer.weight.cpu(), plain.weight)
        plain.load_state_dict(layer.state_dict(), strict=True)


@pytest.mark.parametrize("act_bits", [None, 5])
@pytest.mark.parametrize("options", CONVS, ids=str)
def test_conv_from_float_and_back(device: torch.device, options: dict[str, Any], act_bits: int | None) -> None:
    conv = nn.Conv2d(4, 8, **options).to(device, memory_format=torch.channels_last).eval()
    layer = hc.FakeQuantConv2d.from_float(conv, weight_bits=3, act_bits=act_bits)
    assert layer.weight is conv.weight
    assert layer.bias is conv.bias
    assert not layer.training
    x = torch.randn(2, 4, 9, 8, device=device)
    layer(x)
    plain = layer.to_float()
    assert type(plain) is nn.Conv2d
    assert not plain.training
    assert plain.weight.data_ptr() != conv.weight.data_ptr()
    if layer.input_quantizer is not None:
        layer.input_quantizer.freeze()
        assert torch.equal(plain(layer.input_quantizer(x)), layer(x))
    else:
        assert torch.equal(plain(x), layer(x))
        expected = conv_oracle(x, grid(conv.weight, 3), conv)
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_linear_from_float_and_back(device: torch.device, bias: bool) -> None:
    linear = nn.Linear(6, 3, bias).to(device).double()
    layer = hc.FakeQuantLinear.from_float(linear, weight_bits=2, zero_point="real")
    assert layer.weight is linear.weight
    assert layer.bias is linear.bias
    x = torch.randn(4, 6, device=device, dtype=torch.float64)
    plain = layer.to_float()
    assert type(plain) is nn.Linear
    assert torch.equal(plain(x), layer(x))
    with torch.no_grad():
        plain.weight.zero_()
    assert bool((linear.weight != 0).any())


def test_input_quantizer_comes_first(device: torch.device) -> None:
    x = torch.randn(3, 2, 6, 6, device=device)
    conv = hc.FakeQuantConv2d(2, 3, 3, weight_bits=4, act_bits=3).to(device)
    linear = hc.FakeQuantLinear(6, 3, weight_bits=4, act_bits=3).to(device)
    for layer, oracle in ((conv, F.conv2d), (linear, F.linear)):
        y = layer(x)
        assert layer.input_quantizer is not None
        assert float(layer.input_quantizer.upper) == pytest.approx(float(x.max()), rel=1e-6)
        state = layer.input_quantizer.range_state
        expected = reference.fake_quantize(x, state[0:1], state[1:2], 3)
        torch.testing.assert_close(y, oracle(expected, grid(layer.weight, 4), layer.bias))
        assert {"input_quantizer.range_state", "input_quantizer.frozen"} < set(layer.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_module_dtypes(device: torch.device, dtype: torch.dtype) -> None:
    layer = hc.FakeQuantConv2d(2, 4, 3, weight_bits=4, act_bits=4).to(device, dtype)
    x = torch.randn(2, 2, 5, 5, device=device, dtype=dtype)
    y = layer(x)
    assert layer.input_quantizer is not None
    expected = F.conv2d(layer.input_quantizer(x), grid(layer.weight, 4), layer.bias)
    assert y.dtype == dtype
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_equal_and_independent(device: torch.device, copied: Any) -> None:
    layer = hc.FakeQuantConv2d(2, 3, 3, weight_bits=3, act_bits=4, zero_point="real").to(device)
    x = torch.randn(1, 2, 5, 5, device=device)
    layer(x)
    layer.input_quantizer.freeze()
    twin = copied(layer)
    assert torch.equal(twin(x), layer(x))
    with torch.no_grad():
        twin.weight.zero_()
    assert bool((layer.weight != 0).any())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weight_bits": 9}, ValueError, "weight_bits is 9; allowed: 2 to 8"),
        ({"weight_bits": "4"}, TypeError, "weight_bits must be an int from 2 to 8, got '4'"),
        ({"act_bits": 1}, ValueError, "bits is 1; allowed: 2 to 8"),
        ({"zero_point": "none"}, ValueError, "zero_point is 'none'; allowed: 'integer', 'real'"),
    ],
)
def test_refused_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        hc.FakeQuantConv2d(1, 2, 3, **options)
    with pytest.raises(error, match=message):
        hc.FakeQuantLinear(1, 2, **options)


@pytest.mark.parametrize("reparametrize", ["parametrization", "hook"])
def test_reparametrized_weight_is_refused(reparametrize: str) -> None:
    if reparametrize == "parametrization":
        layer: nn.Module = parametrizations.weight_norm(nn.Conv2d(1, 2, 3))
    else:
        layer = prune.l1_unstructured(nn.Conv2d(1, 2, 3), "weight", 0.5)
    with pytest.raises(ValueError, match=r"the weight of this .*Conv2d is computed from other"):
        hc.FakeQuantConv2d.from_float(layer)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
@pytest.mark.parametrize("layer", [hc.FakeQuantConv2d(2, 2, 3), hc.FakeQuantActivation(4)])
def test_torch_jit_trace_says_what_to_do_instead(layer: nn.Module) -> None:
    with pytest.raises(RuntimeError, match=r"torch\.jit\.trace cannot record .*save_program.*save_onnx"):
        torch.jit.trace(layer, torch.randn(1, 2, 5, 5))
