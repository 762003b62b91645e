"""A safetensors file of one format that notices damage: tensors, and metadata as JSON.

Metadata entries: ``format``, ``content`` (JSON) and ``sha256``, the checksum of
:mod:`hast_cuda.files.tensors` over ``content`` and all tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hast_cuda.files.tensors import DamagedFileError, load_tensors, read_metadata, save_tensors


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
    save_tensors(path, tensors, {"format": form, "content": text}, text=text)


def read_sealed(path: Path, form: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors on the CPU and content of a file of format ``form``.

    Raises:
        FileNotFoundError: no such file. ValueError: damaged, cut short, or of another format.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    try:
        found = read_metadata(path).get("format")
        if found != form:
            raise ValueError(
                f"{path} has format {found!r}; expected {form!r}: give the file that the export of "
                "this name wrote, or the version of hast_cuda that wrote it"
            )
        tensors, metadata = load_tensors(path, text=lambda metadata: metadata["content"])
    except DamagedFileError as error:
        raise _damaged(path, str(error)) from error
    try:
        content = json.loads(metadata["content"])
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if not isinstance(content, dict):
        raise _damaged(path, f"its content is a {type(content).__name__}")
    return tensors, content


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} is damaged or not an export of hast_cuda ({reason}): export the network again"
    )
