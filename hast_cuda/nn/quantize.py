"""From a pretrained network to a fake-quantized one: a copy with swapped modules."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from hast_cuda.checks import tensors as _checks
from hast_cuda.checks.typed import typed
from hast_cuda.loops.warn import warn_caller
from hast_cuda.networks.in_place import activations_read_again
from hast_cuda.networks.statistics import is_patched, require_finite_weights
from hast_cuda.networks.swap import swap_modules
from hast_cuda.networks.tracing import CannotMergeError, trace
from hast_cuda.nn.activation import FakeQuantActivation
from hast_cuda.nn.layers import FakeQuantConv2d, FakeQuantLinear
from hast_cuda.nn.table import QuantizationTable, Row
from hast_cuda.ops.activations import FUNCTIONS, METHODS, MODULES
from hast_cuda.ops.update_range import EMA

PLACEMENTS = ("relu", "all")
_OWN_FORWARD = "not quantized: it has a forward of its own"
LARGEST_WEIGHT = 1e28  # times the finest scale, 255e8 of a constant channel: still a float32
_OTHER_WEIGHTS = (nn.Conv1d, nn.Conv3d, nn.modules.conv._ConvTransposeNd, nn.Bilinear, nn.RNNBase)
_OTHER_ACTIVATIONS = (
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Sigmoid,
    nn.Tanh,
    nn.Softplus,
)


@dataclass(frozen=True)
class Override:
    """Bits of the layers that match a pattern; None keeps that part in full precision.

    Example:
        >>> import hast_cuda as hc
        >>> first = {"stem.*": hc.Override(8, 8)}
        >>> student = hc.quantize(hc.load_teacher("digits"), 4, 4, overrides=first)
        >>> student.stem[0].weight_bits
        8
    """

    weight_bits: int | None = None
    """2 to 8, or None."""
    act_bits: int | None = None
    """2 to 8, or None."""

    def __post_init__(self) -> None:
        """Refuse bits out of range where they are written down."""
        for name, bits in (("weight_bits", self.weight_bits), ("act_bits", self.act_bits)):
            if bits is not None:
                _checks.bit_width(name, bits)


@dataclass
class _Quantizer:
    """The walk of one quantize() call: decides per module and writes the table."""

    default: Override
    placement: str
    overrides: Mapping[str, Override]
    ema: str
    ste: str
    zero_point: str
    in_place: Container[nn.Module]
    device: torch.device | None
    rows: list[Row] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def bits(self, name: str) -> Override:
        """The last pattern that matches wins."""
        chosen = self.default
        for pattern, override in self.overrides.items():
            if fnmatch.fnmatchcase(name, pattern):
                chosen = override
                self.used.add(pattern)
        return chosen

    def activation(self, bits: int, source: nn.Module, fused: str | None = None) -> FakeQuantActivation:
        quantizer = FakeQuantActivation(
            bits, activation=fused, ema=self.ema, ste=self.ste, inplace=source in self.in_place
        )
        return quantizer.train(source.training).to(self.device)

    def convert(self, name: str, module: nn.Module) -> nn.Module | None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            return self.weighted(name, module, self.bits(name))
        if isinstance(module, nn.MultiheadAttention):
            self.note(name, module, "not quantized: it reads its weights without its layers")
            return module  # its projection looks like an ordinary Linear but is never called
        if isinstance(module, _OTHER_WEIGHTS):
            return self.note(name, module, "not quantized: only Conv2d and Linear are")
        if self.placement != "relu":
            return None
        fused = MODULES.get(type(module))
        if fused is None:
            other = isinstance(module, _OTHER_ACTIVATIONS)
            return self.note(name, module, 'not quantized: placement="all" covers it') if other else None
        act_bits = self.bits(name).act_bits
        if act_bits is None:
            return self.note(name, module, "kept in full precision")
        if is_patched(module):
            return self.note(name, module, _OWN_FORWARD)
        self.note(name, module, "quantized output", act_bits=act_bits)
        return self.activation(act_bits, module, fused)

    def weighted(self, name: str, module: nn.Conv2d | nn.Linear, bits: Override) -> nn.Module | None:
        kind = nn.Conv2d if isinstance(module, nn.Conv2d) else nn.Linear
        if isinstance(module, (FakeQuantConv2d, FakeQuantLinear)):
            return self.note(name, module, "already quantized, left as it is")
        if type(module).forward is not kind.forward or is_patched(module):
            return self.note(name, module, _OWN_FORWARD)
        if bits.weight_bits is None:
            return self.note(name, module, "kept in full precision")
        require_finite_weights(name, module.weight, LARGEST_WEIGHT)
        target = FakeQuantConv2d if kind is nn.Conv2d else FakeQuantLinear
        layer = target.from_float(module, weight_bits=bits.weight_bits, zero_point=self.zero_point)  # type: ignore[arg-type]
        act_bits = bits.act_bits if self.placement == "all" else None
        if act_bits is not None:
            layer.input_quantizer = self.activation(act_bits, module)
        note = "quantized weight" + (" and input" if act_bits is not None else "")
        self.rows.append(Row(name, kind.__name__, bits.weight_bits, act_bits, note))
        return layer

    def note(self, name: str, module: nn.Module, text: str, *, act_bits: int | None = None) -> nn.Module | None:
        """Write a row; None, for a module that stays."""
        self.rows.append(Row(name, type(module).__name__, None, act_bits, text))
        return None


def _relu_calls(model: nn.Module) -> int:
    """How often ReLU is called as a function, where torch.fx can follow the network; else 0."""
    calls = {"call_function": FUNCTIONS, "call_method": METHODS}
    try:
        return sum(n.target in calls.get(n.op, ()) for n in trace(model)[0].graph.nodes)
    except CannotMergeError:
        return 0


@typed
def quantize(
    model: nn.Module,
    weight_bits: int = 4,
    act_bits: int | None = 4,
    *,
    placement: str = "relu",
    overrides: Mapping[str, Override] | None = None,
    ema: str = "corrected",
    ste: str = "identity",
    zero_point: str = "integer",
) -> nn.Module:
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

    Example:
        >>> import hast_cuda as hc
        >>> student = hc.quantize(hc.load_teacher("digits"), 4, 4)
        >>> student.output
        FakeQuantLinear(in_features=10, out_features=10, bias=True, weight_bits=4)
    """
    default = Override(weight_bits, act_bits)
    _checks.choice("placement", placement, PLACEMENTS)
    _checks.choice("ema", ema, EMA)
    _checks.choice("ste", ste, _checks.STE)
    _checks.choice("zero_point", zero_point, _checks.ZERO_POINTS)
    student = copy.deepcopy(model)
    walk = _Quantizer(
        default,
        placement,
        dict(overrides or {}),
        ema,
        ste,
        zero_point,
        activations_read_again(student) if placement == "relu" else (),
        next((p.device for p in model.parameters()), None),
    )
    student = swap_modules(student, walk.convert)
    table = QuantizationTable(tuple(walk.rows))
    if not any(row.weight_bits for row in table.rows):
        raise ValueError("the network has no Conv2d or Linear layer to quantize")
    unused = [p for p in walk.overrides if p not in walk.used]
    if unused:
        raise ValueError(
            f"overrides match no layer: {unused}; names look like {table.rows[0].name!r}, and "
            "'block.*' covers every layer of a block"
        )
    if act_bits is not None and not table.quantized_activations:
        warn_caller(
            "no activation is quantized: the network has no nn.ReLU or nn.ReLU6 module (functional "
            'calls cannot be seen). Use placement="all", which quantizes the inputs of layers.',
            UserWarning,
        )
    elif act_bits is not None and placement == "relu" and (calls := _relu_calls(model)):
        warn_caller(
            f"calls of functions such as F.relu ({calls} of them) are not quantized, modules are. "
            'Use placement="all", which quantizes the inputs of layers.',
            UserWarning,
        )
    student.quantization_table = table  # type: ignore[assignment]  # read by quantization_table()
    return student
