"""A file of :func:`hast_cuda.exports.save_engine`, read with numpy alone.

It is a safetensors file: 8 bytes with the length of a header, the header as JSON, and the bytes of the
tensors. Its metadata are the format, the content (JSON: input, classes, values and steps) and the
checksum of both content and tensors.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
FORMAT = "hast_cuda.engine.v1"
_LENGTH = 8
_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("u1"),
}


@dataclass(frozen=True)
class EngineFile:
    """What a file holds.

    Example:
        >>> read_file("student.hast").content["classes"]  # doctest: +SKIP
        ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck']
    """

    content: dict[str, Any]
    """Input, classes, description, values, steps, output."""
    tensors: dict[str, Array]
    """Weights of the steps, by ``<step>.<part>``."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        given = self.content["input"]
        return given["channels"], given["height"], given["width"]


def read_file(path: Path | str) -> EngineFile:
    """The content of ``path``, compared with its checksum.

    Args:
        path: of a file of :func:`hast_cuda.exports.save_engine`.

    Raises:
        ValueError: cut short, changed, or another kind of file. OSError: it cannot be read.

    Example:
        >>> read_file("student.hast").input_shape  # doctest: +SKIP
        (3, 32, 32)
    """
    try:
        return parse(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not a whole file of the engine: {error}") from error


def parse(data: bytes) -> EngineFile:
    """The content of a file in memory; ValueError saying what is wrong with it."""
    size = int.from_bytes(data[:_LENGTH], "little")
    if len(data) < _LENGTH or size > len(data) - _LENGTH:
        raise ValueError(f"it has {len(data)} bytes, its header claims {size}")
    try:
        header = json.loads(data[_LENGTH : _LENGTH + size])
        metadata = header.pop("__metadata__")
        form, text, expected = metadata["format"], metadata["content"], metadata["sha256"]
        body = memoryview(data)[_LENGTH + size :]
        tensors = {name: _tensor(entry, body) for name, entry in header.items()}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"its header is not one of a safetensors file ({type(error).__name__}: {error})") from error
    if form != FORMAT:
        raise ValueError(f"its format is {form!r}; expected {FORMAT!r}")
    if _digest(text, tensors) != expected:
        raise ValueError("its checksum does not fit its contents")
    return EngineFile(json.loads(text), tensors)


def _tensor(entry: Mapping[str, Any], body: memoryview) -> Array:
    dtype, shape, (start, end) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    count = math.prod(shape)
    if not 0 <= start <= end <= len(body) or end - start != count * dtype.itemsize:
        raise ValueError(f"a tensor of shape {shape} lies from {start} to {end} of {len(body)} bytes")
    found: Array = np.frombuffer(body, dtype, count, start).reshape(shape)
    return found


def _digest(text: str, tensors: Mapping[str, Array]) -> str:
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update((json.dumps([name, tensor.dtype.name, list(tensor.shape)]) + "\n").encode())
        found.update(tensor.tobytes())
    return found.hexdigest()
