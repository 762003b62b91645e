"""Drop-in convolution and linear layers whose weights are fake-quantized in forward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from hast_cuda.nn.activation import FakeQuantActivation
from hast_cuda.ops import _checks, fake_quantize_weights


class _FakeQuantWeight(nn.Module):
    """What both layers share: bits, the input quantizer and the quantized weight."""

    weight: Tensor
    bias: Tensor | None
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
        return x if self.input_quantizer is None else self.input_quantizer(x)

    def _bits_repr(self) -> str:
        return f", weight_bits={self.weight_bits}"


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
        return self._conv_forward(self._quantized_input(input), self.quantized_weight(), self.bias)

    def extra_repr(self) -> str:
        """That of ``nn.Conv2d`` and the bits."""
        return nn.Conv2d.extra_repr(self) + self._bits_repr()

    @classmethod
    def from_float(
        cls, conv: nn.Conv2d, *, weight_bits: int = 4, act_bits: int | None = None,
        zero_point: str = "integer",
    ) -> FakeQuantConv2d:  # fmt: skip
        """Quantized layer that uses the parameters of ``conv`` (shared, not copied)."""
        return _adopt(cls(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding,
            conv.dilation, conv.groups, conv.bias is not None, conv.padding_mode, device="meta",
            weight_bits=weight_bits, act_bits=act_bits, zero_point=zero_point,
        ), conv)  # fmt: skip

    def to_float(self) -> nn.Conv2d:
        """Plain ``nn.Conv2d`` whose weights are the dequantized ones; the input quantizer is dropped."""
        return _adopt(nn.Conv2d(
            self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding,
            self.dilation, self.groups, self.bias is not None, self.padding_mode, device="meta",
        ), self, bake=True)  # fmt: skip


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
        return nn.Linear.extra_repr(self) + self._bits_repr()

    @classmethod
    def from_float(
        cls, linear: nn.Linear, *, weight_bits: int = 4, act_bits: int | None = None,
        zero_point: str = "integer",
    ) -> FakeQuantLinear:  # fmt: skip
        """Quantized layer that uses the parameters of ``linear`` (shared, not copied)."""
        return _adopt(cls(
            linear.in_features, linear.out_features, linear.bias is not None, device="meta",
            weight_bits=weight_bits, act_bits=act_bits, zero_point=zero_point,
        ), linear)  # fmt: skip

    def to_float(self) -> nn.Linear:
        """Plain ``nn.Linear`` whose weights are the dequantized ones; the input quantizer is dropped."""
        return _adopt(nn.Linear(
            self.in_features, self.out_features, self.bias is not None, device="meta",
        ), self, bake=True)  # fmt: skip


def _adopt(layer: Any, source: Any, *, bake: bool = False) -> Any:
    """Give a layer built on "meta" the parameters, device and mode of ``source``."""
    if bake:
        layer.weight = nn.Parameter(source.quantized_weight().detach().clone())
        layer.bias = None if source.bias is None else nn.Parameter(source.bias.detach().clone())
    else:
        layer.weight, layer.bias = source.weight, source.bias
    quantizer = getattr(layer, "input_quantizer", None)
    if quantizer is not None:
        layer.input_quantizer = FakeQuantActivation(quantizer.bits).to(source.weight.device)
    return layer.train(source.training)


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
