"""From a pretrained network to a fake-quantized one: a copy with swapped modules."""

from __future__ import annotations

import copy
import fnmatch
import warnings
from collections.abc import Container, Mapping
from dataclasses import dataclass

from torch import nn

from hast_cuda.checks import tensors as _checks
from hast_cuda.checks.typed import typed
from hast_cuda.networks.in_place import activations_read_again
from hast_cuda.networks.statistics import is_patched, require_finite_weights
from hast_cuda.networks.swap import swap_modules
from hast_cuda.networks.tracing import RELU_FUNCTIONS, RELU_METHODS, CannotMergeError, trace
from hast_cuda.nn.activation import FakeQuantActivation
from hast_cuda.nn.layers import FakeQuantConv2d, FakeQuantLinear
from hast_cuda.nn.table import QuantizationTable, Row
from hast_cuda.ops.update_range import EMA

PLACEMENTS = ("relu", "all")
_OWN_FORWARD = "not quantized: it has a forward of its own"
LARGEST_WEIGHT = 1e28  # times the finest scale, 255e8 of a constant channel: still a float32
_FUSED = {nn.ReLU: "relu", nn.ReLU6: "relu6"}
_OTHER_WEIGHTS = (nn.Conv1d, nn.Conv3d, nn.modules.conv._ConvTransposeNd, nn.Bilinear, nn.RNNBase)
_OTHER_ACTIVATIONS = (
    nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid,
    nn.Sigmoid, nn.Tanh, nn.Softplus,
)  # fmt: skip


@dataclass(frozen=True)
class Override:
    """Bits of the layers that match a pattern; None keeps that part in full precision."""

    weight_bits: int | None = None
    """2 to 8, or None."""
    act_bits: int | None = None
    """2 to 8, or None."""

    def __post_init__(self) -> None:
        """Refuse bits out of range where they are written down."""
        for name, bits in (("weight_bits", self.weight_bits), ("act_bits", self.act_bits)):
            if bits is not None:
                _checks.bit_width(name, bits)


class _Quantizer:
    """The walk of one quantize() call: decides per module and writes the table."""

    def __init__(
        self, default: Override, placement: str, overrides: Mapping[str, Override], ema: str,
        ste: str, zero_point: str, in_place: Container[nn.Module],
    ) -> None:  # fmt: skip
        self.default, self.placement, self.overrides = default, placement, overrides
        self.ema, self.ste, self.zero_point, self.in_place = ema, ste, zero_point, in_place
        self.rows: list[Row] = []
        self.used: set[str] = set()

    def bits(self, name: str) -> Override:
        """The last pattern that matches wins."""
        chosen = self.default
        for pattern, override in self.overrides.items():
            if fnmatch.fnmatchcase(name, pattern):
                chosen = override
                self.used.add(pattern)
        return chosen

    def activation(
        self, bits: int, source: nn.Module, fused: str | None = None
    ) -> FakeQuantActivation:
        quantizer = FakeQuantActivation(
            bits, activation=fused, ema=self.ema, ste=self.ste, inplace=source in self.in_place
        )
        return quantizer.train(source.training)

    def convert(self, name: str, module: nn.Module) -> nn.Module | None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            return self.weighted(name, module, self.bits(name))
        if isinstance(module, nn.MultiheadAttention):
            self.note(name, module, "not quantized: it reads its weights without its layers")
            return module  # its projection looks like an ordinary Linear but is never called
        fused = _FUSED.get(type(module))
        if fused is not None:
            if self.placement != "relu":
                return None
            act_bits = self.bits(name).act_bits
            if act_bits is None:
                self.note(name, module, "kept in full precision")
                return None
            if is_patched(module):
                self.note(name, module, _OWN_FORWARD)
                return None
            self.rows.append(Row(name, type(module).__name__, None, act_bits, "quantized output"))
            return self.activation(act_bits, module, fused)
        if isinstance(module, _OTHER_WEIGHTS):
            self.note(name, module, "not quantized: only Conv2d and Linear are")
        elif self.placement == "relu" and isinstance(module, _OTHER_ACTIVATIONS):
            self.note(name, module, 'not quantized: placement="all" covers it')
        return None

    def weighted(
        self, name: str, module: nn.Conv2d | nn.Linear, bits: Override
    ) -> nn.Module | None:
        kind = nn.Conv2d if isinstance(module, nn.Conv2d) else nn.Linear
        if isinstance(module, (FakeQuantConv2d, FakeQuantLinear)):
            self.note(name, module, "already quantized, left as it is")
            return None
        if type(module).forward is not kind.forward or is_patched(module):
            self.note(name, module, _OWN_FORWARD)
            return None
        if bits.weight_bits is None:
            self.note(name, module, "kept in full precision")
            return None
        require_finite_weights(name, module.weight, LARGEST_WEIGHT)
        target = FakeQuantConv2d if kind is nn.Conv2d else FakeQuantLinear
        layer = target.from_float(
            module,  # type: ignore[arg-type]  # target matches the type of module
            weight_bits=bits.weight_bits,
            zero_point=self.zero_point,
        )
        act_bits = bits.act_bits if self.placement == "all" else None
        if act_bits is not None:
            layer.input_quantizer = self.activation(act_bits, module).to(module.weight.device)
        note = "quantized weight" + (" and input" if act_bits is not None else "")
        self.rows.append(Row(name, kind.__name__, bits.weight_bits, act_bits, note))
        return layer

    def note(self, name: str, module: nn.Module, text: str) -> None:
        self.rows.append(Row(name, type(module).__name__, None, None, text))


def _relu_calls(model: nn.Module) -> int:
    """How often ReLU is called as a function, where torch.fx can follow the network; else 0."""
    try:
        nodes = trace(model)[0].graph.nodes
    except CannotMergeError:
        return 0
    return sum(
        (node.op == "call_function" and node.target in RELU_FUNCTIONS)
        or (node.op == "call_method" and node.target in RELU_METHODS)
        for node in nodes
    )


@typed
def quantize(
    model: nn.Module, weight_bits: int = 4, act_bits: int | None = 4, *, placement: str = "relu",
    overrides: Mapping[str, Override] | None = None, ema: str = "corrected",
    ste: str = "identity", zero_point: str = "integer",
) -> nn.Module:  # fmt: skip
    """A fake-quantized copy of ``model``; the argument is never edited.

    Every Conv2d and Linear weight is quantized per output channel (Eq. 1-2), bias and BatchNorm
    stay in full precision. Activation ranges are empty until :func:`hast_cuda.calibrate` has seen
    images.

    Args:
        model: any ``nn.Module``; modules are found by type, wherever they are.
        weight_bits: 2 to 8.
        act_bits: 2 to 8, or None for weights only.
        placement: "relu" quantizes the outputs of ReLU and ReLU6 (the published code); "all"
            quantizes the input of every convolution and linear layer: image, pooled features,
            linear-bottleneck outputs and any activation function (the published claim).
        overrides: ``{"features.init*": Override(8, 8)}``, shell patterns over module names; the
            last match wins; None in an Override keeps that part in full precision.
        ema: range tracking, "corrected" or "released".
        ste: activation gradient, "identity" or "clipped".
        zero_point: weight zero point, "integer" or "real".

    Returns:
        The copy, each module in the mode it had; its table: :func:`hast_cuda.quantization_table`.

    Raises:
        TypeError, ValueError: bits or choices out of range, a pattern that matches no layer, a
            network with nothing to quantize, weights that are not finite (named).
    """
    if not isinstance(model, nn.Module):
        message = f"model must be an nn.Module, got {type(model).__name__}"
        raise TypeError(message)
    _checks.bit_width("weight_bits", weight_bits)
    if act_bits is not None:
        _checks.bit_width("act_bits", act_bits)
    _checks.choice("placement", placement, PLACEMENTS)
    _checks.choice("ema", ema, EMA)
    _checks.choice("ste", ste, _checks.STE)
    _checks.choice("zero_point", zero_point, _checks.ZERO_POINTS)
    student = copy.deepcopy(model)
    walk = _Quantizer(
        Override(weight_bits, act_bits), placement, dict(overrides or {}), ema, ste, zero_point,
        activations_read_again(student) if placement == "relu" else (),
    )  # fmt: skip
    device = next((p.device for p in model.parameters()), None)
    student = swap_modules(student, walk.convert)
    if device is not None:
        for module in student.modules():
            if isinstance(module, FakeQuantActivation):
                module.to(device)
    table = QuantizationTable(tuple(walk.rows))
    if not any(row.weight_bits for row in table.rows):
        message = "the network has no Conv2d or Linear layer to quantize"
        raise ValueError(message)
    unused = [p for p in walk.overrides if p not in walk.used]
    if unused:
        message = (
            f"overrides match no layer: {unused}; names look like {table.rows[0].name!r}, and "
            "'block.*' covers every layer of a block"
        )
        raise ValueError(message)
    if act_bits is not None and not table.quantized_activations:
        warnings.warn(
            "no activation is quantized: the network has no nn.ReLU or nn.ReLU6 module (functional "
            'calls cannot be seen). Use placement="all", which quantizes the inputs of layers.',
            UserWarning,
            stacklevel=3,
        )
    elif act_bits is not None and placement == "relu" and (calls := _relu_calls(model)):
        warnings.warn(
            f"calls of functions such as F.relu ({calls} of them) are not quantized, modules are. "
            'Use placement="all", which quantizes the inputs of layers.',
            UserWarning,
            stacklevel=3,
        )
    student.quantization_table = table  # type: ignore[assignment]  # read by quantization_table()
    return student
