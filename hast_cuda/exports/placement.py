"""Which modules of a network are quantized and how, as JSON: enough to quantize it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import nn

from hast_cuda.checks import tensors as _checks
from hast_cuda.checks.values import check_range
from hast_cuda.nn import FakeQuantActivation, FakeQuantConv2d, FakeQuantLinear
from hast_cuda.nn.around import around
from hast_cuda.ops.activations import activation_code
from hast_cuda.ops.update_range import EMA

QuantizedLayer = FakeQuantConv2d | FakeQuantLinear
KINDS: dict[str, type[QuantizedLayer]] = {"Conv2d": FakeQuantConv2d, "Linear": FakeQuantLinear}
DTYPES = {n: getattr(torch, n) for n in ("float32", "float16", "bfloat16", "float64")}
PLAIN: dict[str | None, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6, None: nn.Identity}
"""What an activation quantizer with each activation stands in for."""


@dataclass(frozen=True)
class QuantizerRecord:
    """A frozen activation quantizer; its range is in the tensors."""

    bits: int
    activation: str | None
    ema: str
    ste: str
    calls: int = 1

    def __post_init__(self) -> None:
        _checks.bit_width("bits", self.bits)
        check_range("calls", self.calls, 1)
        activation_code(self.activation)
        _checks.choice("ema", self.ema, EMA)
        _checks.choice("ste", self.ste, _checks.STE)

    @classmethod
    def of(cls, quantizer: FakeQuantActivation) -> QuantizerRecord:
        """The record of ``quantizer``."""
        return cls(**{part.name: getattr(quantizer, part.name) for part in fields(cls)})


@dataclass(frozen=True)
class LayerRecord:
    """A layer with a quantized weight."""

    kind: str  # A key of KINDS
    bits: int
    shape: list[int]
    dtype: str  # of the weight, a key of DTYPES
    stored_as: str
    """Name of the layer that holds the weight's tensors: another one where weights are shared."""
    input: QuantizerRecord | None

    def __post_init__(self) -> None:
        _checks.choice("kind", self.kind, tuple(KINDS))
        _checks.bit_width("bits", self.bits)
        _checks.choice("dtype", self.dtype, tuple(DTYPES))
        sizes: Any = self.shape  # of a file: anything
        known = type(sizes) is list and all(type(n) is int and n >= 0 for n in sizes)
        if not known or not sizes:
            raise ValueError(f"shape is {self.shape!r}; expected a list of sizes")
        if not isinstance(self.stored_as, str):
            raise TypeError(f"stored_as is {self.stored_as!r}; expected the name of a layer")


@dataclass(frozen=True)
class Placement:
    """All quantized modules of a network, each under its first name."""

    layers: dict[str, LayerRecord]
    activations: dict[str, QuantizerRecord]
    """In the place of activations."""
    around: dict[str, QuantizerRecord] = field(default_factory=dict)
    """Behind layers, in front of and behind other modules: ``"block.output_quantizer"``."""
    shared: dict[str, str] = field(default_factory=dict)
    """Of quantizers that stand in several places: where it stands, too, and where first."""

    @classmethod
    def of(cls, student: nn.Module) -> Placement:
        """That of ``student``; ValueError without a quantized layer of exactly a known class."""
        layers: dict[str, LayerRecord] = {}
        activations: dict[str, QuantizerRecord] = {}
        weights: dict[tuple[int, int, tuple[float, ...] | None], str] = {}
        placed: dict[FakeQuantActivation, str] = {}
        shared: dict[str, str] = {}
        beside: dict[str, QuantizerRecord] = {}
        parts = {q for module in student.modules() for q in around(module).values()}

        def place(name: str, quantizer: FakeQuantActivation) -> QuantizerRecord:
            first = placed.setdefault(quantizer, name)
            if first != name:
                shared[name] = first
            return QuantizerRecord.of(quantizer)

        for name, module in student.named_modules():
            for part, beside_it in around(module).items():
                if part == "output_quantizer" or not isinstance(module, QuantizedLayer):
                    beside[key(name, part)] = place(key(name, part), beside_it)
            if isinstance(module, QuantizedLayer):
                fixed, quantizer = module.weight_range, module.input_quantizer
                grid = None if fixed is None else tuple(fixed.flatten().tolist())
                identity = (id(module.weight), module.weight_bits, grid)
                layers[name] = LayerRecord(
                    kind=_kind(name, module),
                    bits=module.weight_bits,
                    shape=list(module.weight.shape),
                    dtype=str(module.weight.dtype).removeprefix("torch."),
                    stored_as=weights.setdefault(identity, name),
                    input=None if quantizer is None else QuantizerRecord.of(quantizer),
                )
        for name, module in student.named_modules(remove_duplicate=False):
            own = isinstance(module, FakeQuantActivation) and module not in parts
            if own and (module not in placed or module.calls > 1):  # one that several modules share has all its names
                activations[name] = place(name, module)
        if not layers:
            raise ValueError("the network has no quantized layer: give what hast_cuda.quantize returns")
        return cls(layers, activations, beside, shared)

    def quantizers(self) -> list[str]:
        """Names of all activation quantizers, those of layers' inputs included, each once."""
        inputs = [key(n, "input_quantizer") for n, r in self.layers.items() if r.input is not None]
        return [name for name in (*self.activations, *inputs, *self.around) if name not in self.shared]

    def to_json(self) -> dict[str, Any]:
        """As JSON values, without what only some networks have, where this one has it not."""
        found = asdict(self)
        for records in (found["activations"], found["around"], {n: r["input"] for n, r in found["layers"].items()}):
            for record in records.values():
                if record is not None and record["calls"] == 1:
                    del record["calls"]
        return {name: value for name, value in found.items() if value or name in ("layers", "activations")}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Placement:
        """What :meth:`to_json` gave, checked; ValueError for anything else."""
        layers, activations, beside, shared, name = {}, {}, {}, {}, ""
        try:
            for name, entry in content["layers"].items():
                quantizer = None if entry["input"] is None else QuantizerRecord(**entry["input"])
                layers[name] = LayerRecord(**{**entry, "input": quantizer})
            for name, entry in content["activations"].items():
                activations[name] = QuantizerRecord(**entry)
            for name, entry in content.get("around", {}).items():
                if name.rpartition(".")[2] not in ("input_quantizer", "output_quantizer"):
                    raise ValueError("a quantizer stands in front of a module or behind it")
                beside[name] = QuantizerRecord(**entry)
            for name, first in content.get("shared", {}).items():
                found = {**activations, **beside}
                if found.get(name) is None or found[name] != found.get(first) or first in content["shared"]:
                    raise ValueError(f"it is the quantizer of {first!r}, of which there is none like it")
                shared[name] = first
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the record of {name!r} is not one of a quantized module: {error}") from error
        for name, record in layers.items():
            stored = layers.get(record.stored_as)
            ours = (record.bits, record.shape, record.dtype)
            if stored is None or ours != (stored.bits, stored.shape, stored.dtype):
                raise ValueError(
                    f"layer {name!r} is stored as {record.stored_as!r}, which is no layer of the "
                    "same bits, shape and dtype"
                )
        return cls(layers, activations, beside, shared)


def _kind(name: str, layer: QuantizedLayer) -> str:
    for kind, known in KINDS.items():
        if type(layer) is known:
            return kind
    raise ValueError(
        f"layer {name!r} is a {type(layer).__name__}; only hast_cuda.FakeQuantConv2d and "
        "hast_cuda.FakeQuantLinear themselves can be packed"
    )


def key(name: str, part: str) -> str:
    """Name of a module's tensor; the root module has the empty name."""
    return f"{name}.{part}" if name else part


def own_keys(model: nn.Module) -> set[str]:
    """State-dict keys of quantized weights and ranges, which exports store in another form."""
    keys = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, QuantizedLayer):
            keys |= {key(name, "weight"), key(name, "weight_range")}
        elif isinstance(module, FakeQuantActivation):
            keys |= {key(name, "range_state"), key(name, "frozen")}
    return keys
