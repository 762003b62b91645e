"""A quantized network in one safetensors file, its weights as packed integers.

Metadata entries: ``format``, ``content`` (JSON) and ``sha256``, the checksum of
:mod:`hast_cuda.files.tensors` over ``content`` and all tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_path, check_json
from hast_cuda.exports.float_network import output_path, stored_tensor
from hast_cuda.exports.grid import activation_grid, float_bytes
from hast_cuda.exports.packed_weight import packed_weight
from hast_cuda.exports.placement import Placement, key, own_keys
from hast_cuda.exports.rebuild import rebuild
from hast_cuda.exports.records import Exported
from hast_cuda.files.tensors import load_tensors, read_metadata, save_tensors
from hast_cuda.files.versions import VERSION

FORMAT = "hast_cuda.packed.v1"


@typed
def save_packed(student: nn.Module, path: Path | str, describe: Mapping[str, Any] | None = None) -> Exported:
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

    Example:
        >>> import hast_cuda as hc
        >>> student = hc.quantize(hc.load_teacher("digits"), 4, None)
        >>> file = save_packed(student, "p.safetensors")
        >>> file.bytes < file.float_bytes
        True
    """
    path = output_path(path)
    check_json("describe", describe)
    placement = Placement.of(student)
    tensors: dict[str, Tensor] = {}
    weights = 0
    for name in {record.stored_as: None for record in placement.layers.values()}:
        layer: Any = student.get_submodule(name)
        tensors |= {key(name, part): t for part, t in packed_weight(layer, name).items()}
        weights += layer.weight.numel()
    weight_bytes = sum(t.numel() * t.element_size() for t in tensors.values())
    for name in placement.quantizers():
        quantizer: Any = student.get_submodule(name)
        ends = activation_grid(quantizer, name).bounds.squeeze(1)
        tensors |= {key(name, end): ends[i].clone() for i, end in enumerate(("lower", "upper"))}
    others, aliases = _others(student)
    clash = sorted(tensors.keys() & (others.keys() | aliases.keys()))
    if clash:
        raise ValueError(f"the network has a tensor {clash[0]!r}, a name that the format needs: rename it")
    content = {
        **placement.to_json(),
        "aliases": aliases,
        "network": type(student).__name__,
        "versions": {"hast_cuda": VERSION, "torch": torch.__version__},
        "describe": dict(describe or {}),
    }
    write_packed(path, tensors | others, content)
    bits = 8 * weight_bytes / max(1, weights)  # scales and ranges included
    return Exported("packed", path, path.stat().st_size, float_bytes(student), bits)


def write_packed(path: Path, tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> None:
    """Contiguous CPU ``tensors`` and ``content``, whole or not at all."""
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    save_tensors(path, tensors, {"format": FORMAT, "content": text}, text=text)


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

    Example:
        >>> import hast_cuda as hc
        >>> student = hc.quantize(hc.load_teacher("digits"), 4, None)
        >>> _ = hc.exports.save_packed(student, "p.safetensors")
        >>> again = load_packed("p.safetensors", hc.load_teacher("digits"))
        >>> torch.equal(again(torch.ones(1, 1, 8, 8)), student(torch.ones(1, 1, 8, 8)))
        True
    """
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

    Example:
        >>> import hast_cuda as hc
        >>> student = hc.quantize(hc.load_teacher("digits"), 4, None)
        >>> _ = hc.exports.save_packed(student, "p.safetensors", {"seed": 0})
        >>> read_packed("p.safetensors")[1]["describe"]
        {'seed': 0}
    """
    path = as_path("path", path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    try:
        found = read_metadata(path).get("format")
        if found == FORMAT:
            tensors, metadata = load_tensors(path, text=lambda metadata: metadata["content"])
            content = json.loads(metadata["content"])
            if isinstance(content, dict):
                return tensors, content
            raise ValueError(f"its content is a {type(content).__name__}")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged or not an export of hast_cuda ({error}): export the network again"
        ) from error
    raise ValueError(
        f"{path} has format {found!r}; expected {FORMAT!r}: give the file that the export of this "
        "name wrote, or the version of hast_cuda that wrote it"
    )


def _others(student: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All other tensors of the state dict, and the names under which some are there again."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[int, str] = {}
    own = own_keys(student)
    for name, tensor in student.state_dict(keep_vars=True).items():
        if name in own:
            continue
        if first.setdefault(id(tensor), name) == name:
            tensors[name] = stored_tensor(name, tensor)
        else:
            aliases[name] = first[id(tensor)]
    return tensors, aliases
