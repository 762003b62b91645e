"""What became of each layer of a finished run."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.nn import FakeQuantActivation, quantization_table
from hast_cuda.nn.around import around
from hast_cuda.nn.quantized_weight import QuantizedWeight


@dataclass(frozen=True)
class LayerRow:
    """One layer; None is full precision for bits, and unknown for the rest."""

    name: str
    kind: str
    weight_bits: int | None
    act_bits: int | None
    act_range: tuple[float, float] | None
    error: float | None
    """Relative error of the weights, ||Q(w) - w|| / ||w||, w of the full-precision network."""
    note: str = ""
    """What became of it, in words."""


@torch.no_grad()
def layer_rows(student: nn.Module, prepared: nn.Module) -> list[LayerRow]:
    """All layers that hold weights or activations, in module order; ``prepared`` is the network that was quantized."""
    modules, before = dict(student.named_modules()), dict(prepared.named_modules())
    rows = []
    for row in quantization_table(student).rows:
        module = modules[row.name]
        quantizer: object = module
        for part, beside in around(module).items():  # a row of its own says so of an output
            if part.startswith("output" if "output" in row.note else "input"):
                quantizer = beside
        found = None
        if isinstance(quantizer, FakeQuantActivation):
            found = (float(quantizer.lower), float(quantizer.upper))
        error = None
        if isinstance(module, QuantizedWeight) and row.weight_bits is not None:
            weight = before[row.name].weight
            assert isinstance(weight, Tensor)
            error = relative_error(module.quantized_weight(), weight)
        rows.append(LayerRow(row.name, row.kind, row.weight_bits, row.act_bits, found, error, row.note))
    return rows


def relative_error(quantized: Tensor, weight: Tensor) -> float | None:
    """||quantized - weight|| / ||weight||, None for weights that are all 0."""
    norm = float(weight.double().norm())
    return float((quantized.double() - weight.double()).norm()) / norm if norm else None


def tensor_rows(tensors: Mapping[str, Tensor], bits: Mapping[str, Any]) -> list[LayerRow]:
    """The same from the tensors of ``student.safetensors`` alone, as far as they tell.

    Types are the dimensions of the weights, bits those that were asked for, and there are no
    errors: the full-precision weights are not in the file.
    """
    rows = []
    for key in sorted(tensors, key=_natural):
        name, _, last = key.rpartition(".")
        asked = _bits_of(name.removesuffix(".input_quantizer").removesuffix(".output_quantizer"), bits)
        beside = bits.get("placement") == "integer" and name.endswith("put_quantizer")
        if last == "weight" and tensors[key].dim() in (2, 4):
            kind = f"{tensors[key].dim()}-d weight"
            rows.append(LayerRow(name, kind, asked[0], None, None, None))
        elif last == "range_state":
            low, high = tensors[key][:2].tolist()
            act_bits = asked[1]
            if beside and low < 0 and asked == _bits_of("", {**bits, "overrides": {}}):  # no ReLU, no override
                act_bits = bits.get("sums", 8)
            rows.append(LayerRow(name, "activation", None, act_bits, (low, high), None))
    return rows


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Sorts unit2 before unit10."""
    parts = re.split(r"(\d+)", name)
    return [(p.isdigit(), int(p) if p.isdigit() else 0, p) for p in parts]


def _bits_of(name: str, bits: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Of weights and activations, by the last pattern that matches."""
    chosen = (bits.get("weights"), bits.get("activations"))
    for pattern, override in (bits.get("overrides") or {}).items():
        if fnmatch.fnmatchcase(name, pattern):
            chosen = (override.get("weight_bits"), override.get("act_bits"))
    return chosen
