"""The walk of one quantize() call: decides per module and writes the table."""

from __future__ import annotations

import fnmatch
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from hast_cuda.networks.statistics import has_own_forward, is_patched, require_finite_weights
from hast_cuda.nn.activation import FakeQuantActivation
from hast_cuda.nn.integer_sites import Sites, find_sites
from hast_cuda.nn.layers import FakeQuantConv2d, FakeQuantLinear
from hast_cuda.nn.override import Override
from hast_cuda.nn.table import NOT_QUANTIZED, Row
from hast_cuda.ops.activations import MODULES

_KEPT = "kept in full precision"
_OWN_FORWARD = f"{NOT_QUANTIZED}it has a forward of its own"
LARGEST_WEIGHT = 1e28  # times the finest scale, 255e8 of a constant channel: still a float32
_OTHER_WEIGHTS = (nn.Conv1d, nn.Conv3d, nn.modules.conv._ConvTransposeNd, nn.Bilinear, nn.RNNBase)


def _is_activation(module: nn.Module) -> bool:
    """Whether ``module`` is one of torch's activation functions, or a class of somebody who built on one."""
    if isinstance(module, (nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin)):
        return False
    return any(kind.__module__ == nn.ReLU.__module__ for kind in type(module).__mro__)


@dataclass
class Walk:
    """Options, and what was found so far."""

    default: Override
    placement: str
    overrides: Mapping[str, Override]
    ema: str
    ste: str
    zero_point: str
    in_place: Container[nn.Module]
    device: torch.device | None
    sum_bits: int
    symmetric_weights: bool = False
    shared: Container[nn.Module] = ()
    """Layers whose weights something else reads too."""
    wide: Container[str] = ()
    """Layers whose inputs have ``sum_bits`` under placement "all"."""
    sites: Sites = field(default_factory=Sites)
    outputs: dict[str, FakeQuantActivation] = field(default_factory=dict)
    """What goes behind modules, beside what takes the place of ReLU."""
    entries: dict[str, FakeQuantActivation] = field(default_factory=dict)
    """What goes in front of blocks."""
    joined: dict[str, FakeQuantActivation] = field(default_factory=dict)
    """What takes the place of ReLU where several share one."""
    partners: dict[str, str] = field(default_factory=dict)
    """Whose grid a module's output has, too, in words."""
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

    def kept(self, name: str) -> bool:
        """Whether an override leaves the activations of this module in full precision."""
        return self.bits(name).act_bits is None

    def site_bits(self, name: str, *, activation: bool) -> int:
        """Of a quantizer that is not in the place of a ReLU: its own, those of activations, those of sums."""
        chosen = self.bits(name)
        bits = chosen.act_bits if activation or chosen is not self.default else self.sum_bits
        assert bits is not None  # as kept() says
        return bits

    def find_outputs(self, model: nn.Module) -> None:
        """Sites of placement "integer", and the quantizers behind modules."""
        self.sites = find_sites(model, self.kept)
        modules, sites = dict(model.named_modules()), self.sites
        for group in sites.groups:
            sources, names = [modules[name] for name in group], [MODULES.get(type(modules[name])) for name in group]
            bits = max(self.site_bits(name, activation=sites.outputs.get(name, True)) for name in group)
            alone, calls = len(set(names)) == 1, sum(sites.calls.get(name, 1) for name in group)
            if any(source in self.in_place for source in sources):
                raise ValueError(
                    f"the outputs of {', '.join(map(repr, group))} are joined and share one quantizer, but the input "
                    "of one of these is edited in place and read again: give that one inplace=False"
                )
            shared = self.activation(bits, sources[0], names[0] if alone else None, calls)
            places = self.joined if alone and names[0] else self.outputs
            places |= dict.fromkeys(group, shared)
            self.partners |= {n: f", on one grid with {', '.join(o for o in group if o != n)}" for n in group}
        for places, wanted in ((self.outputs, sites.outputs), (self.entries, sites.entries)):
            for name, activation in wanted.items():
                if name not in places:
                    places[name] = self.activation(self.site_bits(name, activation=activation), modules[name])

    def activation(self, bits: int, source: nn.Module, fused: str | None = None, calls: int = 1) -> FakeQuantActivation:
        """A quantizer in the place of ``source``, or beside it."""
        inplace = fused is not None and source in self.in_place
        quantizer = FakeQuantActivation(
            bits,
            activation=fused,
            ema=self.ema,
            ste=self.ste,
            inplace=inplace,
            calls=calls,
            holds_zero=self.placement == "integer",
        )
        return quantizer.train(source.training).to(self.device)

    def convert(self, name: str, module: nn.Module) -> nn.Module | None:
        """What takes the place of ``module``; None if it stays."""
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            return self.weighted(name, module, self.bits(name))
        if isinstance(module, (nn.MultiheadAttention, *_OTHER_WEIGHTS)):
            attention = isinstance(module, nn.MultiheadAttention)
            why = "it reads its weights without its layers" if attention else "only Conv2d and Linear are"
            wanted = self.bits(name).weight_bits is not None
            self.note(name, module, f"{NOT_QUANTIZED}{why}" if wanted else _KEPT)
            return module if attention else None  # its projection looks like a Linear but is never called
        if name in self.entries:
            self.note(name, module, "quantized input", act_bits=self.entries[name].bits)
        if name in self.outputs:
            return self.behind(name, module)
        fused = MODULES.get(type(module))
        other = fused is None and (self.placement != "relu" or not _is_activation(module))
        if self.placement == "all" or other:
            return None
        act_bits = self.bits(name).act_bits
        if act_bits is None:
            return self.note(name, module, _KEPT)
        if fused is None:
            return self.note(name, module, f'{NOT_QUANTIZED}placement="all" covers it')
        if is_patched(module):
            return self.note(name, module, _OWN_FORWARD)
        quantizer = self.joined.get(name) or self.activation(act_bits, module, fused)
        self.note(name, module, "quantized output" + self.partners.get(name, ""), act_bits=quantizer.bits)
        return quantizer

    def weighted(self, name: str, module: nn.Conv2d | nn.Linear, bits: Override) -> nn.Module | None:
        """A layer with a quantized weight."""
        kind = nn.Conv2d if isinstance(module, nn.Conv2d) else nn.Linear
        if isinstance(module, (FakeQuantConv2d, FakeQuantLinear)):
            return self.note(name, module, "already quantized, left as it is")
        if bits.weight_bits is None:
            return self.note(name, module, _KEPT)
        if has_own_forward(module):
            return self.note(name, module, _OWN_FORWARD)
        if module in self.shared:
            return self.note(name, module, f"{NOT_QUANTIZED}something else reads its weight too")
        if "weight" not in module._parameters:
            raise ValueError(
                f"the weight of layer {name!r} ({type(module).__name__}) is computed from other parameters "
                "(weight_norm, spectral_norm, pruning): make it plain first, e.g. with "
                "torch.nn.utils.parametrize.remove_parametrizations or torch.nn.utils.prune.remove"
            )
        require_finite_weights(name, module.weight, LARGEST_WEIGHT)
        target = FakeQuantConv2d if kind is nn.Conv2d else FakeQuantLinear
        layer = target.from_float(module, weight_bits=bits.weight_bits, zero_point=self.zero_point)  # type: ignore[arg-type]
        if self.symmetric_weights:
            layer.fix_symmetric_range()
        act_bits = self.input_bits(name, bits)
        if act_bits is not None:
            layer.input_quantizer = self.activation(act_bits, module)
        note = "quantized weight" + (" and input" if act_bits is not None else "")
        self.rows.append(Row(name, kind.__name__, bits.weight_bits, act_bits, note))
        if name in self.outputs:
            self.behind(name, module)
        return layer

    def behind(self, name: str, module: nn.Module) -> nn.Module | None:
        """Write a row for the quantizer behind a module; None, for a module that stays."""
        text = "quantized output" + self.partners.get(name, "")
        return self.note(name, module, text, act_bits=self.outputs[name].bits)

    def input_bits(self, name: str, bits: Override) -> int | None:
        """Of the quantizer in front of a layer; None if there is none."""
        if bits.input_bits is not None:
            return bits.input_bits
        if self.placement == "all":
            return None if bits.act_bits is None else self.site_bits(name, activation=name not in self.wide)
        site = self.sites.inputs.get(name)
        return None if site is None else self.site_bits(name, activation=site)

    def note(self, name: str, module: nn.Module, text: str, *, act_bits: int | None = None) -> nn.Module | None:
        """Write a row; None, for a module that stays."""
        self.rows.append(Row(name, type(module).__name__, None, act_bits, text))
        return None
