"""Drop-in convolution and linear layers whose weights are fake-quantized in forward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from hast_cuda.checks.typed import typed
from hast_cuda.networks.output_moments import share_output_moments
from hast_cuda.nn.quantized_weight import QuantizedWeight, quantized_weights

L = TypeVar("L", "FakeQuantConv2d", "FakeQuantLinear")
P = TypeVar("P", nn.Conv2d, nn.Linear)


class FakeQuantConv2d(QuantizedWeight, nn.Conv2d):
    """``nn.Conv2d`` with weights quantized per output channel, and optionally a quantized input.

    Args:
        *args: as ``nn.Conv2d``, all padding modes, groups and dilations; ``**kwargs`` likewise.
        weight_bits: 2 to 8.
        act_bits: bits of a quantizer in front of the layer; None leaves the input as it is.
        zero_point: "integer" or "real", see :func:`hast_cuda.fake_quantize`.

    The state dict has the keys of ``nn.Conv2d`` (and the input quantizer's, if there is one; and
    ``weight_range`` where the grid is fixed, see :meth:`fix_weight_range`).
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
    @typed
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


class FakeQuantLinear(QuantizedWeight, nn.Linear):
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
    @typed
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
    if isinstance(source, QuantizedWeight):
        layer.weight_range = source.weight_range
    share_output_moments(source, layer)
    if layer.input_quantizer is not None:
        layer.input_quantizer.to(source.weight.device)
    return layer.train(source.training)


def _bake(plain: P, source: FakeQuantConv2d | FakeQuantLinear) -> P:
    """Give ``plain`` copies of the dequantized weight and the bias of ``source``."""
    plain.weight = nn.Parameter(source.quantized_weight().detach().clone())
    bias = None if source.bias is None else nn.Parameter(source.bias.detach().clone())
    plain.register_parameter("bias", bias)
    share_output_moments(source, plain)
    return plain.train(source.training)


@typed
@contextmanager
def quantized_once(model: nn.Module) -> Iterator[None]:
    """Quantize all weights of ``model`` in one launch; every forward inside reuses them.

    The weights must not change inside.
    Gradients of several backward passes reach the same weights: the straight-through gradient is
    the identity and keeps nothing.
    """
    layers = [m for m in model.modules() if isinstance(m, QuantizedWeight)]
    try:
        for zero_point in sorted({layer.zero_point for layer in layers}):
            group = [layer for layer in layers if layer.zero_point == zero_point]
            for layer, weight in zip(group, quantized_weights(group), strict=True):
                layer.cached_weight = weight
        yield
    finally:
        for layer in layers:
            layer.cached_weight = None
