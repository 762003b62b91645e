"""A float network, tensors and a placement: the quantized network again."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.exports.packed_weight import PARTS, unpacked_weight
from hast_cuda.exports.placement import KINDS, PLAIN, LayerRecord, Placement, QuantizerRecord, key, own_keys
from hast_cuda.files.tensors import restore
from hast_cuda.loops.modes import copied
from hast_cuda.networks.in_place import activations_read_again
from hast_cuda.networks.swap import swap_modules
from hast_cuda.nn import FakeQuantActivation, activation_quantizers
from hast_cuda.nn.around import drop_around, quantize_around

_SHOWN = 4  # names listed per kind of mismatch


def rebuild(network: nn.Module, tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> nn.Module:
    """A quantized copy of ``network`` in eval mode, on its devices, in the dtypes of ``tensors``.

    ValueError for content that is none, tensors that are missing, another network.
    """
    student = drop_around(copied(network))
    builder = _Builder(tensors, Placement.from_json(content), activations_read_again(student))
    place = next((_device(p) for p in network.parameters()), torch.device("cpu"))
    student = swap_modules(student, builder.convert)
    student = quantize_around(student, *builder.around(student))
    unseen = [n for n in builder.wanted if n not in builder.done]
    if unseen:
        raise _other_network(f"it has no layer of its own named {_first(unseen)}")
    for quantizer in activation_quantizers(student).values():
        quantizer.to(place)
    _load_others(student, builder.others(), content)
    return student.eval()


class _Builder:
    """Puts quantized modules where the placement has them."""

    def __init__(self, tensors: Mapping[str, Tensor], placement: Placement, in_place: Container[nn.Module]) -> None:
        self.tensors, self.placement, self.in_place = tensors, placement, in_place
        self.wanted = [*placement.layers, *placement.activations]
        self.done: set[str] = set()
        self.shared: dict[str, FakeQuantActivation] = {}
        self.weights: dict[str, tuple[nn.Parameter, Tensor]] = {}

    def convert(self, name: str, module: nn.Module) -> nn.Module | None:
        if name in self.wanted:
            self.done.add(name)
        if name in self.placement.layers:
            return self.layer(name, module, self.placement.layers[name])
        record = self.placement.activations.get(name)
        if record is None:
            return None
        if not isinstance(module, (PLAIN[record.activation], FakeQuantActivation)):
            raise _mismatch(name, module, PLAIN[record.activation].__name__)
        return self.activation(name, record, inplace=module in self.in_place)

    def layer(self, name: str, module: nn.Module, record: LayerRecord) -> nn.Module:
        if not isinstance(module, getattr(nn, record.kind)):
            raise _mismatch(name, module, record.kind)
        layer = KINDS[record.kind].from_float(module, weight_bits=record.bits)
        shape = list(layer.weight.shape)
        if shape != record.shape:
            raise _other_network(f"the weight of {name!r} is {shape}, in the file {record.shape}")
        layer.weight, layer.weight_range = self.weight(record, layer.weight)
        if record.input is not None:
            layer.input_quantizer = self.activation(key(name, "input_quantizer"), record.input)
        return layer

    def weight(self, record: LayerRecord, old: Tensor) -> tuple[nn.Parameter, Tensor]:
        """Weight and range; the same objects for layers that share them."""
        name = record.stored_as
        if name not in self.weights:
            weight, bounds = unpacked_weight(self.tensors, name, record)
            device = _device(old)
            parameter = nn.Parameter(weight.to(device), requires_grad=old.requires_grad)
            self.weights[name] = parameter, bounds.to(device)
        return self.weights[name]

    def around(self, student: nn.Module) -> tuple[dict[str, FakeQuantActivation], dict[str, FakeQuantActivation]]:
        """Quantizers in front of and behind modules, by the modules' names."""
        entries: dict[str, FakeQuantActivation] = {}
        outputs: dict[str, FakeQuantActivation] = {}
        modules = dict(student.named_modules())
        for name, record in self.placement.around.items():
            module, _, part = name.rpartition(".")
            if module not in modules:
                raise _other_network(f"it has no module of its own named {module!r}")
            places = outputs if part == "output_quantizer" else entries
            places[module] = self.activation(name, record)
        return entries, outputs

    def activation(self, name: str, record: QuantizerRecord, *, inplace: bool = False) -> FakeQuantActivation:
        """The quantizer of a name, one object wherever it stands."""
        name = self.placement.shared.get(name, name)
        if name not in self.shared:
            self.shared[name] = self.made(name, record, inplace=inplace)
        return self.shared[name]

    def made(self, name: str, record: QuantizerRecord, *, inplace: bool) -> FakeQuantActivation:
        quantizer = FakeQuantActivation(**vars(record), inplace=inplace)
        lower, upper = (self.tensors.get(key(name, part)) for part in ("lower", "upper"))
        if lower is None or upper is None or {lower.shape, upper.shape} != {torch.Size()}:
            raise ValueError(f"the range of {name!r} is missing or not a pair of numbers")
        if lower.dtype != upper.dtype or lower.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"the range of {name!r} is {lower.dtype}, {upper.dtype}; expected float32")
        quantizer.range_state = quantizer.range_state.to(lower.dtype)
        try:
            quantizer.set_range(lower, upper)
        except ValueError as error:
            raise ValueError(f"the range of {name!r}: {error}") from error
        quantizer.freeze()
        return quantizer

    def others(self) -> dict[str, Tensor]:
        """The tensors that no quantized module has used."""
        used = {key(n, part) for n in self.weights for part in PARTS}
        used |= {key(n, part) for n in self.placement.quantizers() for part in ("lower", "upper")}
        return {name: tensor for name, tensor in self.tensors.items() if name not in used}


def _load_others(student: nn.Module, tensors: dict[str, Tensor], content: Mapping[str, Any]) -> None:
    """Everything but quantized weights and ranges, strictly."""
    own, expected = own_keys(student), student.state_dict(keep_vars=True)
    aliases = content.get("aliases")
    if not isinstance(aliases, dict) or not all(a in tensors for a in aliases.values()):
        raise ValueError("its aliases name tensors that are not there")
    sources = {name: name for name in tensors} | aliases
    kinds = {
        "missing": [k for k in expected if k not in own and k not in sources],
        "unexpected": [k for k in sources if k in own or k not in expected],
        "of another shape": [k for k, s in sources.items() if k in expected and tensors[s].shape != expected[k].shape],
    }
    found = [f"{len(keys)} tensors {kind}: {_first(keys)}" for kind, keys in kinds.items() if keys]
    if found:
        raise _other_network("; ".join(found))
    objects: dict[str, Tensor] = {}
    for name, source in sources.items():
        old, new = expected[name], tensors[source].to(_device(expected[name]))
        fits = isinstance(old, nn.Parameter)
        objects.setdefault(source, nn.Parameter(new, old.requires_grad) if fits else new)
    given = {name: objects[source] for name, source in sources.items()}
    restore(student, given, strict=False, assign=True)  # keys are checked above


def _device(tensor: Tensor) -> torch.device:
    """Where a new tensor replaces ``tensor``: an architecture without memory gives the CPU."""
    return torch.device("cpu") if tensor.is_meta else tensor.device


def _mismatch(name: str, module: nn.Module, kind: str) -> ValueError:
    return _other_network(f"{name!r} is a {type(module).__name__}, in the file a {kind}")


def _other_network(reason: str) -> ValueError:
    return ValueError(
        f"{reason}. Give the float network that was quantized; if it was prepared (BatchNorm "
        "folded, biases added), the result of the same hast_cuda.posttraining.prepare(network, "
        "config)"
    )


def _first(names: list[str]) -> str:
    return ", ".join(repr(n) for n in names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
