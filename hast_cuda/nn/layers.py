"""Drop-in convolution and linear layers whose weights are fake-quantized in forward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from hast_cuda.checks.typed import typed
from hast_cuda.networks.statistics import share_output_moments
from hast_cuda.nn.activation import FakeQuantActivation
from hast_cuda.nn.quantized_weight import QuantizedWeight, quantized_weights

L = TypeVar("L", bound=QuantizedWeight)
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

    Example:
        >>> import hast_cuda as hc
        >>> layer = hc.FakeQuantConv2d(3, 8, 3, padding=1, weight_bits=3)
        >>> layer(torch.randn(2, 3, 8, 8)).shape
        torch.Size([2, 8, 8, 8])
        >>> max(len(row.unique()) for row in layer.quantized_weight()) <= 2**3
        True
    """

    def forward(self, input: Tensor) -> Tensor:
        """[N, C_in, H, W] -> [N, C_out, H', W']."""
        x, weight = self._quantized_input(input), self.quantized_weight()
        output: Tensor = self._conv_forward(x, weight, self.bias)
        return self._quantized_output(output)

    @classmethod
    @typed
    def from_float(
        cls, conv: nn.Conv2d, *, weight_bits: int = 4, act_bits: int | None = None, zero_point: str = "integer"
    ) -> FakeQuantConv2d:
        """Quantized layer that uses the parameters of ``conv`` (shared, not copied)."""
        layer = cls(**_arguments(conv), weight_bits=weight_bits, act_bits=act_bits, zero_point=zero_point)
        return _adopt(layer, conv)

    def to_float(self) -> nn.Conv2d:
        """Plain ``nn.Conv2d`` with the dequantized weights; its quantizers are dropped."""
        return _bake(nn.Conv2d(**_arguments(self)), self)


class FakeQuantLinear(QuantizedWeight, nn.Linear):
    """``nn.Linear`` with weights quantized per output row, and optionally a quantized input.

    Args:
        *args: as ``nn.Linear``; ``**kwargs`` likewise.
        weight_bits: 2 to 8.
        act_bits: bits of a quantizer in front of the layer; None leaves the input as it is.
        zero_point: "integer" or "real".

    Example:
        >>> import hast_cuda as hc
        >>> layer = hc.FakeQuantLinear(16, 4, weight_bits=3)
        >>> max(len(row.unique()) for row in layer.quantized_weight()) <= 2**3
        True
    """

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        output = F.linear(self._quantized_input(input), self.quantized_weight(), self.bias)
        return self._quantized_output(output)

    @classmethod
    @typed
    def from_float(
        cls, linear: nn.Linear, *, weight_bits: int = 4, act_bits: int | None = None, zero_point: str = "integer"
    ) -> FakeQuantLinear:
        """Quantized layer that uses the parameters of ``linear`` (shared, not copied)."""
        layer = cls(**_arguments(linear), weight_bits=weight_bits, act_bits=act_bits, zero_point=zero_point)
        return _adopt(layer, linear)

    def to_float(self) -> nn.Linear:
        """Plain ``nn.Linear`` with the dequantized weights; its quantizers are dropped."""
        return _bake(nn.Linear(**_arguments(self)), self)


def _arguments(layer: nn.Module) -> dict[str, Any]:
    """Constructor arguments of a layer like this one, without memory for its weights."""
    kind = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.Linear
    names = set(kind.__constants__) - {"output_padding"}
    bias = layer.bias is not None
    return {n: getattr(layer, n) for n in names} | {"bias": bias, "device": "meta"}


def _adopt(layer: L, source: nn.Conv2d | nn.Linear) -> L:
    """``layer`` with the parameters, device and mode of ``source``."""
    if "weight" not in source._parameters:
        raise ValueError(
            f"the weight of this {type(source).__name__} is computed from other parameters "
            "(weight_norm, spectral_norm, pruning); make it plain first, e.g. with "
            "torch.nn.utils.parametrize.remove_parametrizations or torch.nn.utils.prune.remove"
        )
    for name, parameter in source.named_parameters(recurse=False):
        layer.register_parameter(name, parameter)
    if isinstance(source, QuantizedWeight):
        layer.weight_range, layer.symmetric = source.weight_range, source.symmetric
    share_output_moments(source, layer)
    if layer.input_quantizer is not None:
        layer.input_quantizer.to(source.weight.device)
    return layer.train(source.training)


def _bake(plain: P, source: FakeQuantConv2d | FakeQuantLinear) -> P:
    """``plain`` with copies of the dequantized weight and the bias of ``source``."""
    plain.weight = nn.Parameter(source.quantized_weight().detach().clone())
    bias = None if source.bias is None else nn.Parameter(source.bias.detach().clone())
    plain.register_parameter("bias", bias)
    share_output_moments(source, plain)
    return plain.train(source.training)


@typed
@contextmanager
def quantized_once(model: nn.Module) -> Iterator[None]:
    """Quantize all weights of ``model`` in one launch; every forward inside reuses them.

    The weights must not change inside. Those that are cached or set aside already stay as they are.
    Gradients of several backward passes reach the same weights: the straight-through gradient is
    the identity and keeps nothing.
    """
    layers = [m for m in model.modules() if isinstance(m, QuantizedWeight) and m.cached_weight is None]
    try:
        for zero_point in sorted({layer.zero_point for layer in layers}):
            group = [layer for layer in layers if layer.zero_point == zero_point]
            for layer, weight in zip(group, quantized_weights(group), strict=True):
                layer.cached_weight = weight
        yield
    finally:
        for layer in layers:
            layer.cached_weight = None


@contextmanager
def quantizers_aside(model: nn.Module) -> Iterator[None]:
    """Let ``model`` compute in full precision: weights as they are, activations not rounded, ranges not tracked."""
    weights = [m for m in model.modules() if isinstance(m, QuantizedWeight)]
    activations = [m for m in model.modules() if isinstance(m, FakeQuantActivation)]
    try:
        for layer in weights:
            layer.cached_weight = layer.weight.detach()
        for quantizer in activations:
            quantizer.set_aside = True
        yield
    finally:
        for layer in weights:
            layer.cached_weight = None
        for quantizer in activations:
            quantizer.set_aside = False
