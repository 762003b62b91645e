"""A quantized network in one safetensors file, its weights as packed integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_path, check_json
from hast_cuda.exports.grid import activation_grid, float_bytes
from hast_cuda.exports.packed_weight import packed_weight
from hast_cuda.exports.placement import Placement, QuantizedLayer, key, own_keys
from hast_cuda.exports.rebuild import rebuild
from hast_cuda.exports.sealed import read_sealed, write_sealed
from hast_cuda.files.versions import VERSION
from hast_cuda.nn import FakeQuantActivation

FORMAT = "hast_cuda.packed.v1"


@dataclass(frozen=True)
class PackedInfo:
    """Sizes of a packed network."""

    bytes: int
    """Of the file."""
    float_bytes: int
    """Of the network's parameters in float32."""
    weight_bits: float
    """Stored bits per quantized weight, scales and ranges included."""


@typed
def save_packed(
    student: nn.Module, path: Path | str, describe: Mapping[str, Any] | None = None
) -> PackedInfo:
    """Write ``student`` with integer weights; :func:`load_packed` gives it again bit by bit.

    BatchNorm, biases and layers in full precision are stored as they are. docs/export.md has the
    layout.

    Args:
        student: from :func:`hast_cuda.quantize`, its activation ranges frozen.
        path: of the file.
        describe: more metadata, JSON values.

    Raises:
        ValueError: ranges that are not frozen, grids that no integers describe, no quantized layer.
        TypeError: ``describe`` or the state dict holds what the file cannot. FileNotFoundError: no
            such directory.
    """
    path = as_path("path", path)
    check_json("describe", describe)
    placement = Placement.of(student)
    tensors, weight_bytes, weights = _weights(student, placement)
    tensors |= _ranges(student, placement)
    others, aliases = _others(student)
    clash = sorted(tensors.keys() & (others.keys() | aliases.keys()))
    if clash:
        message = f"the network has a tensor {clash[0]!r}, a name that the format needs: rename it"
        raise ValueError(message)
    tensors |= others
    content = {
        **placement.to_json(),
        "aliases": aliases,
        "network": type(student).__name__,
        "versions": _versions(),
        "describe": dict(describe or {}),
    }
    write_sealed(path, tensors, content, FORMAT)
    return PackedInfo(path.stat().st_size, float_bytes(student), 8 * weight_bytes / max(1, weights))


@typed
def load_packed(path: Path | str, network: nn.Module) -> nn.Module:
    """The quantized network of a file, in eval mode; its outputs are the saved one's bit by bit.

    Args:
        path: from :func:`save_packed`.
        network: the float network that was quantized, with any weights; not edited. Where the
            student was made from :func:`hast_cuda.posttraining.prepare` (BatchNorm folded), the
            result of the same call.

    Raises:
        TypeError: ``network`` is none. FileNotFoundError: no such file. ValueError: a damaged file,
            another format, another network.
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"network must be an nn.Module, got {type(network).__name__}")
    tensors, content = read_packed(path)
    try:
        return rebuild(network, tensors, content)
    except ValueError as error:
        raise ValueError(f"{path} does not fit this {type(network).__name__}: {error}") from error


@typed
def read_packed(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file of :func:`save_packed`, whole and checked, without a network.

    Raises:
        FileNotFoundError: no such file. ValueError: a damaged file or another format.
    """
    return read_sealed(as_path("path", path), FORMAT)


def _weights(student: nn.Module, placement: Placement) -> tuple[dict[str, Tensor], int, int]:
    """Tensors of all quantized weights, their bytes, and how many weights they are."""
    modules = dict(student.named_modules())
    tensors: dict[str, Tensor] = {}
    count = 0
    for name, record in placement.layers.items():
        if record.stored_as != name:
            continue
        layer = modules[name]
        assert isinstance(layer, QuantizedLayer)
        tensors |= {key(name, part): t for part, t in packed_weight(layer, name).items()}
        count += layer.weight.numel()
    return tensors, sum(t.numel() * t.element_size() for t in tensors.values()), count


def _ranges(student: nn.Module, placement: Placement) -> dict[str, Tensor]:
    tensors = {}
    for name in placement.quantizers():
        quantizer = student.get_submodule(name)
        assert isinstance(quantizer, FakeQuantActivation)
        lower, upper = activation_grid(quantizer, name).bounds.squeeze(1).unbind()
        tensors[key(name, "lower")], tensors[key(name, "upper")] = lower.clone(), upper.clone()
    return tensors


def _others(student: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All other tensors of the state dict, and the names under which some are there again."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[int, str] = {}
    own = own_keys(student)
    for name, tensor in student.state_dict(keep_vars=True).items():
        if name in own:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"state dict entry {name!r} is a {type(tensor).__name__}, not a tensor")
        if first.setdefault(id(tensor), name) == name:
            # clone: safetensors refuses tensors that share memory
            tensors[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        else:
            aliases[name] = first[id(tensor)]
    return tensors, aliases


def _versions() -> dict[str, str]:
    return {"hast_cuda": VERSION, "torch": torch.__version__}
