"""Drop-in convolution and linear layers whose weights are fake-quantized in forward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from hast_cuda.nn.activation import FakeQuantActivation
from hast_cuda.ops import _checks, fake_quantize_weights

L = TypeVar("L", "FakeQuantConv2d", "FakeQuantLinear")
P = TypeVar("P", nn.Conv2d, nn.Linear)


class _FakeQuantWeight(nn.Module):
    """What both layers share: bits, the input quantizer and the quantized weight."""

    weight: Tensor
    weight_bits: int
    zero_point: str
    input_quantizer: FakeQuantActivation | None
    cached_weight: Tensor | None

    def _set_up(self, weight_bits: int, act_bits: int | None, zero_point: str) -> None:
        _checks.bit_width("weight_bits", weight_bits)
        _checks.choice("zero_point", zero_point, _checks.ZERO_POINTS)
        self.weight_bits, self.zero_point = weight_bits, zero_point
        self.input_quantizer = None if act_bits is None else FakeQuantActivation(act_bits)
        self.cached_weight = None

    def quantized_weight(self) -> Tensor:
        """Weight on its grid (Eq. 2), range = min and max per output channel; identity gradient."""
        if self.cached_weight is not None:
            return self.cached_weight
        return fake_quantize_weights([self.weight], self.weight_bits, zero_point=self.zero_point)[0]

    def _quantized_input(self, x: Tensor) -> Tensor:
        if self.input_quantizer is None:
            return x
        quantized: Tensor = self.input_quantizer(x)
        return quantized


class FakeQuantConv2d(_FakeQuantWeight, nn.Conv2d):
    """``nn.Conv2d`` with weights quantized per output channel, and optionally a quantized input.

    Args:
        *args: as ``nn.Conv2d``, all padding modes, groups and dilations; ``**kwargs`` likewise.
        weight_bits: 2 to 8.
        act_bits: bits of a quantizer in front of the layer; None leaves the input as it is.
        zero_point: "integer" or "real", see :func:`hast_cuda.fake_quantize`.

    The state dict has the keys of ``nn.Conv2d`` (and the input quantizer's, if there is one).
    """

    def __init__(
        self, *args: Any, weight_bits: int = 4, act_bits: int | None = None,
        zero_point: str = "integer", **kwargs: Any,
    ) -> None:  # fmt: skip
        nn.Conv2d.__init__(self, *args, **kwargs)
        self._set_up(weight_bits, act_bits, zero_point)

    def forward(self, input: Tensor) -> Tensor:
        """[N, C_in, H, W] -> [N, C_out, H', W']."""
        x, weight = self._quantized_input(input), self.quantized_weight()
        output: Tensor = self._conv_forward(x, weight, self.bias)
        return output

    def extra_repr(self) -> str:
        """That of ``nn.Conv2d`` and the bits."""
        return f"{nn.Conv2d.extra_repr(self)}, weight_bits={self.weight_bits}"

    @classmethod
    def from_float(
        cls, conv: nn.Conv2d, *, weight_bits: int = 4, act_bits: int | None = None,
        zero_point: str = "integer",
    ) -> FakeQuantConv2d:  # fmt: skip
        """Quantized layer that uses the parameters of ``conv`` (shared, not copied)."""
        layer = cls(
            **_conv_arguments(conv), weight_bits=weight_bits, act_bits=act_bits,
            zero_point=zero_point,
        )  # fmt: skip
        return _adopt(layer, conv)

    def to_float(self) -> nn.Conv2d:
        """Plain ``nn.Conv2d`` with the dequantized weights; the input quantizer is dropped."""
        return _bake(nn.Conv2d(**_conv_arguments(self)), self)


class FakeQuantLinear(_FakeQuantWeight, nn.Linear):
    """``nn.Linear`` with weights quantized per output row, and optionally a quantized input.

    Args:
        *args: as ``nn.Linear``; ``**kwargs`` likewise.
        weight_bits: 2 to 8.
        act_bits: bits of a quantizer in front of the layer; None leaves the input as it is.
        zero_point: "integer" or "real".
    """

    def __init__(
        self, *args: Any, weight_bits: int = 4, act_bits: int | None = None,
        zero_point: str = "integer", **kwargs: Any,
    ) -> None:  # fmt: skip
        nn.Linear.__init__(self, *args, **kwargs)
        self._set_up(weight_bits, act_bits, zero_point)

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return F.linear(self._quantized_input(input), self.quantized_weight(), self.bias)

    def extra_repr(self) -> str:
        """That of ``nn.Linear`` and the bits."""
        return f"{nn.Linear.extra_repr(self)}, weight_bits={self.weight_bits}"

    @classmethod
    def from_float(
        cls, linear: nn.Linear, *, weight_bits: int = 4, act_bits: int | None = None,
        zero_point: str = "integer",
    ) -> FakeQuantLinear:  # fmt: skip
        """Quantized layer that uses the parameters of ``linear`` (shared, not copied)."""
        layer = cls(
            linear.in_features, linear.out_features, linear.bias is not None, device="meta",
            weight_bits=weight_bits, act_bits=act_bits, zero_point=zero_point,
        )  # fmt: skip
        return _adopt(layer, linear)

    def to_float(self) -> nn.Linear:
        """Plain ``nn.Linear`` with the dequantized weights; the input quantizer is dropped."""
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        return _bake(plain, self)


def _conv_arguments(conv: nn.Conv2d) -> dict[str, Any]:
    """Constructor arguments of a convolution like ``conv``, without memory for its weights."""
    names = (
        "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups",
        "padding_mode",
    )  # fmt: skip
    return {n: getattr(conv, n) for n in names} | {"bias": conv.bias is not None, "device": "meta"}


def _adopt(layer: L, source: nn.Conv2d | nn.Linear) -> L:
    """Give ``layer`` the parameters, device and mode of ``source``."""
    if "weight" not in source._parameters:
        message = (
            f"the weight of this {type(source).__name__} is computed from other parameters "
            "(weight_norm, spectral_norm, pruning); make it plain first, e.g. with "
            "torch.nn.utils.parametrize.remove_parametrizations or torch.nn.utils.prune.remove"
        )
        raise ValueError(message)
    for name, parameter in source.named_parameters(recurse=False):
        layer.register_parameter(name, parameter)
    if layer.input_quantizer is not None:
        layer.input_quantizer.to(source.weight.device)
    return layer.train(source.training)


def _bake(plain: P, source: FakeQuantConv2d | FakeQuantLinear) -> P:
    """Give ``plain`` copies of the dequantized weight and the bias of ``source``."""
    plain.weight = nn.Parameter(source.quantized_weight().detach().clone())
    bias = None if source.bias is None else nn.Parameter(source.bias.detach().clone())
    plain.register_parameter("bias", bias)
    return plain.train(source.training)


@contextmanager
def quantized_once(model: nn.Module) -> Iterator[None]:
    """Quantize all weights of ``model`` in one launch; every forward inside reuses them.

    The weights must not change inside. Gradients of several backward passes reach the same weights:
    the straight-through gradient is the identity and keeps nothing.
    """
    layers = [m for m in model.modules() if isinstance(m, _FakeQuantWeight)]
    try:
        for zero_point in sorted({layer.zero_point for layer in layers}):
            group = [layer for layer in layers if layer.zero_point == zero_point]
            weights = fake_quantize_weights(
                [layer.weight for layer in group],
                [layer.weight_bits for layer in group],
                zero_point=zero_point,
            )
            for layer, weight in zip(group, weights, strict=True):
                layer.cached_weight = weight
        yield
    finally:
        for layer in layers:
            layer.cached_weight = None
