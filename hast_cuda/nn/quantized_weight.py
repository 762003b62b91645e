"""What layers with a quantized weight share: bits, grid, quantizers in front and behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.checks import tensors as _checks
from hast_cuda.nn.activation import FakeQuantActivation
from hast_cuda.ops import fake_quantize_weights
from hast_cuda.ops.reference import arithmetic_dtype


class QuantizedWeight(nn.Module):
    """Mixin of :class:`hast_cuda.FakeQuantConv2d` and :class:`hast_cuda.FakeQuantLinear`.

    :attr:`weight_range` is None, and the grid follows the weight's minimum and maximum per output
    channel; or it is a buffer [2, out_channels] (lower, upper), and the grid stays.
    """

    weight: Tensor
    weight_range: Tensor | None
    input_quantizer: FakeQuantActivation | None
    output_quantizer: FakeQuantActivation | None
    cached_weight: Tensor | None
    symmetric = False  # whether a search for another grid keeps its zero at code 0

    def __init__(
        self, *args: Any, weight_bits: int = 4, act_bits: int | None = None, zero_point: str = "integer", **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        _checks.bit_width("weight_bits", weight_bits)
        if act_bits is not None:
            _checks.bit_width("act_bits", act_bits)
        _checks.choice("zero_point", zero_point, _checks.ZERO_POINTS)
        self.weight_bits, self.zero_point = weight_bits, zero_point
        self.input_quantizer = None if act_bits is None else FakeQuantActivation(act_bits)
        self.output_quantizer = None
        self.register_buffer("weight_range", None)  # None: no key in the state dict
        self.cached_weight = None

    def extra_repr(self) -> str:
        """That of the plain layer and the bits."""
        return f"{super().extra_repr()}, weight_bits={self.weight_bits}"

    def quantized_weight(self) -> Tensor:
        """Weight on its grid (Eq. 2), [out, ...]; identity gradient."""
        if self.cached_weight is not None:
            return self.cached_weight
        return quantized_weights([self])[0]

    @torch.no_grad()
    def fix_weight_range(self, weight_range: Tensor | None = None) -> None:
        """Keep one grid from now on, whatever the weights become.

        Without this, weights that were moved on their grid are quantized on another one as soon as
        the smallest or largest of a channel moved. ``layer.weight_range = None`` undoes it.

        Args:
            weight_range: [2, out_channels], lower and upper end; None takes the weight's present
                minimum and maximum.

        Raises:
            ValueError: wrong shape, NaN or infinity, lower > upper.
        """
        dtype, channels = arithmetic_dtype(self.weight.dtype), self.weight.shape[0]
        if weight_range is None:
            weight_range = torch.stack(self.weight.to(dtype).flatten(1).aminmax(dim=1))
        _checks.floating("weight_range", weight_range)
        if weight_range.shape != (2, channels):
            raise ValueError(
                f"weight_range has shape {tuple(weight_range.shape)}; expected (2, {channels}): "
                "lower and upper end per output channel"
            )
        fixed = weight_range.to(self.weight.device, dtype).detach().clone()
        _checks.ordered_range(*fixed.cpu().unbind())
        self.weight_range = fixed

    def fix_symmetric_range(self) -> None:
        """Keep the grid of :func:`symmetric_range`, and its zero point in every later search for a range."""
        self.symmetric = True
        self.fix_weight_range(symmetric_range(self.weight, self.weight_bits))

    def _quantized_input(self, x: Tensor) -> Tensor:
        quantized: Tensor = x if self.input_quantizer is None else self.input_quantizer(x)
        return quantized

    def _quantized_output(self, y: Tensor) -> Tensor:
        quantizer = getattr(self, "output_quantizer", None)  # of objects that were pickled without it
        quantized: Tensor = y if quantizer is None else quantizer(y)
        return quantized

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> QuantizedWeight:
        exact = self.weight_range
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call, unused-ignore]
        moved, half = self.weight_range, (torch.float16, torch.bfloat16)
        if exact is not None and moved is not None and moved.dtype in half:
            # module.half() must not round the range: only its device follows
            self.weight_range = exact.to(moved.device)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        if f"{prefix}weight_range" in state_dict:
            dtype = arithmetic_dtype(self.weight.dtype)
            self.weight_range = self.weight.new_empty(2, self.weight.shape[0], dtype=dtype)
        elif f"{prefix}weight" in state_dict:
            self.weight_range = None  # these weights have no grid of their own
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


@torch.no_grad()
def symmetric_range(weight: Tensor, bits: int) -> Tensor:
    """Ends [2, out] of grids ``step * q``, q signed: zero point 0, ``step = max |w| / (2^(bits-1) - 1)``."""
    half = 2 ** (bits - 1)
    rows = weight.to(arithmetic_dtype(weight.dtype)).flatten(1)
    step = (rows.abs().amax(dim=1) if rows.numel() else rows.new_zeros(len(rows))) / (half - 1)
    return torch.stack((-half * step, (half - 1) * step))


def quantized_weights(layers: Sequence[QuantizedWeight]) -> list[Tensor]:
    """Weights of layers with one kind of zero point, each on its grid, in one launch."""
    return fake_quantize_weights(
        [layer.weight for layer in layers],
        [layer.weight_bits for layer in layers],
        zero_point=layers[0].zero_point,
        ranges=[layer.weight_range for layer in layers],
    )
