"""A safetensors file that notices damage: a checksum over all tensors and all metadata.

Metadata entries: ``format``, ``content`` (JSON) and ``sha256``, the hex digest of ``content``
followed by, for every tensor in order of name, one line of JSON ``[name, dtype, shape]`` and the
tensor's bytes. It finds accidents, not forgery: whoever changes a file can compute it anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from hast_cuda.files import replace_file

_LENGTH = 8  # bytes of the header's own length, in front of it


def write_sealed(
    path: Path, tensors: Mapping[str, Tensor], content: Mapping[str, Any], form: str
) -> None:
    """Write contiguous CPU ``tensors`` and ``content``, whole or not at all.

    Raises:
        TypeError: ``content`` holds what JSON cannot. ValueError: NaN or infinity in it.
        FileNotFoundError: no such directory.
    """
    if not path.parent.is_dir():
        message = f"{path.parent} is not a directory: create it, or give path another place"
        raise FileNotFoundError(message)
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    metadata = {"format": form, "content": text, "sha256": digest(text, tensors)}
    with replace_file(path) as temporary:
        save_file(dict(tensors), temporary, metadata)


def read_sealed(path: Path, form: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors on the CPU and content of a file of format ``form``.

    Raises:
        FileNotFoundError: no such file. ValueError: damaged, cut short, or of another format.
    """
    if not path.is_file():
        message = f"{path} is not a file"
        raise FileNotFoundError(message)
    data = path.read_bytes()
    metadata = _metadata(data, path)
    if metadata.get("format") != form:
        message = (
            f"{path} has format {metadata.get('format')!r}; expected {form!r}: give the file that "
            "the export of this name wrote, or the version of hast_cuda that wrote it"
        )
        raise ValueError(message)
    try:
        tensors = load(data)
        text = metadata["content"]
        content = json.loads(text)
        intact = metadata["sha256"] == digest(text, tensors)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if not intact:
        raise _damaged(path, "its checksum does not fit its contents")
    if not isinstance(content, dict):
        raise _damaged(path, f"its content is a {type(content).__name__}")
    return tensors, content


def digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """The checksum of the module's docstring."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        dtype = str(tensor.dtype).removeprefix("torch.")
        found.update((json.dumps([name, dtype, list(tensor.shape)]) + "\n").encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _metadata(data: bytes, path: Path) -> dict[str, Any]:
    """Metadata of a safetensors file; its sizes are compared with the file's first."""
    size = int.from_bytes(data[:_LENGTH], "little")
    if len(data) < _LENGTH or size > len(data) - _LENGTH:
        raise _damaged(path, f"it has {len(data)} bytes, its header claims {size}")
    try:
        header = json.loads(data[_LENGTH : _LENGTH + size])
        metadata = header["__metadata__"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not readable ({type(error).__name__})") from error
    if not isinstance(metadata, dict):
        raise _damaged(path, "its header has no metadata")
    return metadata


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} is damaged or not an export of hast_cuda ({reason}): export the network again"
    )
