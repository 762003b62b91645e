"""safetensors files that appear whole, are equal for equal contents, and notice damage.

The metadata entry ``sha256`` is the hex digest of a text (all other metadata as JSON, or what the
format says) followed by, for every tensor in order of name, one line of JSON
``[name, dtype, shape]`` and the tensor's bytes. It finds accidents, not forgery: whoever changes a
file can compute it anew.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hast_cuda.files.whole import replace_file

CHECKSUM = "sha256"
_LENGTH = 8  # bytes of the header's own length, in front of it
_LONGEST = 100_000_000  # bytes of a header; safetensors has the same limit
# What the reader raises on files that no writer makes.
_UNREADABLE = (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OverflowError)


class DamagedFileError(ValueError):
    """A file that is not what was written, or that nothing here has written."""


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *, text: str | None = None
) -> None:
    """Write contiguous ``tensors`` that share no memory and their checksum, whole or not at all.

    ``text``: what the checksum covers beside the tensors; default the metadata, which has no entry of its name.
    """
    metadata = dict(metadata or {})
    if CHECKSUM in metadata:
        raise ValueError(f"metadata has an entry {CHECKSUM!r}, the name of the checksum: rename it")
    kept = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    metadata[CHECKSUM] = digest(_text(metadata) if text is None else text, kept)
    with replace_file(path) as temporary:
        save_file(kept, temporary, metadata)
        _order_metadata(temporary)


def load_tensors(
    path: Path, *, text: Callable[[Mapping[str, str]], str] | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors on the CPU and metadata of a file, compared with its checksum over ``text`` of the metadata and tensors.

    A file without a checksum, of an earlier version or another program, is read as it is, unless ``text`` is given.
    DamagedFileError: cut short, changed, or no safetensors file; says why without naming it.
    """
    metadata = read_metadata(path)
    try:
        tensors: dict[str, Tensor] = load_file(path)
        if text is None and CHECKSUM not in metadata:
            return tensors, metadata
        expected = metadata[CHECKSUM]
        intact = expected == digest((text or _text)(metadata), tensors)
    except _UNREADABLE as error:
        raise DamagedFileError(f"{type(error).__name__}: {error}") from error
    if not intact:
        raise DamagedFileError("its checksum does not fit its contents")
    return tensors, metadata


def restore(network: nn.Module, tensors: Mapping[str, Tensor], *, strict: bool = True, assign: bool = False) -> None:
    """Load what a file holds of ``network`` itself; some layers ask for the version that no tensor tells."""
    described = OrderedDict(tensors)
    described._metadata = getattr(network.state_dict(), "_metadata", None)  # type: ignore[attr-defined]
    network.load_state_dict(described, strict=strict, assign=assign)


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata of a safetensors file, its sizes compared with the file's first; DamagedFileError if it is none."""
    whole = path.stat().st_size
    with path.open("rb") as file:
        size = int.from_bytes(file.read(_LENGTH), "little")
        if whole < _LENGTH or size > min(whole - _LENGTH, _LONGEST):
            raise DamagedFileError(f"it has {whole} bytes, its header claims {size}")
        data = file.read(size)
    try:
        metadata = json.loads(data).get("__metadata__", {})
    except (AttributeError, ValueError, RecursionError) as error:
        raise DamagedFileError(f"its header is not readable ({type(error).__name__})") from error
    if not isinstance(metadata, dict) or any(type(v) is not str for v in metadata.values()):
        raise DamagedFileError("its header has metadata other than texts")
    return metadata


def digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """The checksum of the module's docstring, of tensors on the CPU."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        dtype = str(tensor.dtype).removeprefix("torch.")
        found.update((json.dumps([name, dtype, list(tensor.shape)]) + "\n").encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _text(metadata: Mapping[str, str]) -> str:
    return json.dumps({k: v for k, v in metadata.items() if k != CHECKSUM}, sort_keys=True)


def _order_metadata(path: Path) -> None:
    """Sort the metadata, which safetensors writes in another order each time."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(_LENGTH), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        data = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(data) <= size  # the same characters; the rest was padding
        file.seek(_LENGTH)
        file.write(data.ljust(size))


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits that depend on names, shapes, dtypes and every bit."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        # Any: numpy's arrays are buffers, which its types do not say
        data: Any = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        digest.update(data)
    return digest.hexdigest()[:16]


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
