"""Labelled images in one .npz file; its sizes are checked before anything is allocated."""

from __future__ import annotations

import lzma
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

LARGEST = 16 * 2**30  # bytes of all images together: ImageNet's 50,000 at 224x224 have 7.5e9
CHANNELS = (1, 3, 4)  # grey, RGB, and RGB with one more
_RATIO = 200  # of compression; photographs reach 3, drawings 50
_SMALL = 2**26  # bytes that are read at any ratio
_LONGEST_HEADER = 10_000  # bytes, as numpy's own limit
_NUMPY = b"\x93NUMPY"


def npz_arrays(path: Path) -> tuple[Tensor, Tensor]:
    """uint8 [N, C, H, W] and int64 [N] of an .npz file; ValueError: other arrays, or sizes that do not fit the file.

    Nothing is unpickled or extracted, and names lead nowhere: only the two entries are read.
    """
    with _explained(path):
        with path.open("rb") as file:
            if file.read(len(_NUMPY)) == _NUMPY:
                raise ValueError("it holds one array; images and labels are needed")
        with zipfile.ZipFile(path) as archive:
            names = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
            missing = [key for key in ("images", "labels") if key not in names]
            if missing:
                shown = [name[:40] for name in names[:8]]
                raise ValueError(f"no {' and no '.join(missing)} among its arrays {shown}")
            headers = {key: _header(archive, key) for key in ("images", "labels")}
        _check_shapes(path, *headers["images"], *headers["labels"])
        with zipfile.ZipFile(path) as archive:
            images, labels = (_read(archive, key, *headers[key]) for key in ("images", "labels"))
    if images.ndim == 3:
        images = images[..., None]
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return pixels, torch.from_numpy(labels.astype(np.int64))


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except _Misfit:
        raise
    except (
        ValueError,
        OSError,
        EOFError,
        KeyError,
        RuntimeError,
        NotImplementedError,
        zlib.error,
        zipfile.BadZipFile,
        lzma.LZMAError,
        struct.error,
        SyntaxError,
        RecursionError,
        MemoryError,
    ) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"data={path} is not a usable image archive: {reason}. Fix: np.savez(file, "
            "images=uint8 [N, H, W, C], labels=int64 [N])"
        ) from error


class _Misfit(ValueError):
    """Arrays of another kind than images and labels; the message is complete."""


def _header(archive: zipfile.ZipFile, key: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype that an entry claims, compared with its size."""
    entry = archive.getinfo(f"{key}.npy")
    if entry.compress_type == zipfile.ZIP_LZMA:
        _check_dictionary(archive, entry, key)
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{key} has version {version} of numpy's format")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file, max_header_size=_LONGEST_HEADER)
        if dtype.hasobject:
            raise ValueError(f"{key} holds Python objects, which allow_pickle=False refuses")
        claimed, held = math.prod(shape) * dtype.itemsize, entry.file_size - file.tell()
    if min(shape, default=0) < 0 or claimed != held:
        raise ValueError(f"{key} claims {list(shape)} {dtype}, {claimed} bytes, and holds {held}")
    if claimed > LARGEST:
        raise ValueError(f"{key} has {claimed} bytes, more than the {LARGEST} that are allowed")
    if claimed > _SMALL and claimed > _RATIO * entry.compress_size:
        raise ValueError(f"{key} unpacks {entry.compress_size} bytes to {claimed}, as no photographs do")
    return shape, dtype


def _check_dictionary(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, key: str) -> None:
    """LZMA allocates at once what its header says; its highest preset says 64 MiB."""
    assert archive.filename is not None
    with Path(archive.filename).open("rb") as file:
        file.seek(entry.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
        file.seek(name + extra + 5, os.SEEK_CUR)  # version, size and one byte of properties
        (size,) = struct.unpack("<I", file.read(4))
    if size > _SMALL:
        raise ValueError(f"{key} wants a dictionary of {size} bytes to be unpacked")


class _ByPieces:
    """A file that is read 4 kB at a time: so much, packed by LZMA, unpacks to 30 MB at most."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; fewer at the end alone."""
        pieces = []
        while size > 0 and (piece := self.file.read(min(size, 4096))):
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)


def _check_shapes(
    path: Path, images: tuple[int, ...], pixel: np.dtype[Any], labels: tuple[int, ...], label: np.dtype[Any]
) -> None:
    shown = list(images)
    if pixel != np.uint8 or len(images) not in (3, 4):
        raise _Misfit(f"data={path}: images are {pixel} {shown}; they must be uint8 [N, H, W, C] or [N, H, W]")
    if len(images) == 4 and images[3] not in CHANNELS:
        raise _Misfit(
            f"data={path}: images are {shown}, the last axis must be 1, 3 or 4 channels; "
            "transpose [N, C, H, W] with images.transpose(0, 2, 3, 1)"
        )
    if label.kind not in "iu" or labels != images[:1]:
        raise _Misfit(
            f"data={path}: labels are {label} {list(labels)}; they must be integers [{images[0]}], one per image"
        )
    if 0 in images:
        raise _Misfit(f"data={path}: images are {shown}; at least one is needed")


def _read(
    archive: zipfile.ZipFile, key: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> np.ndarray[Any, np.dtype[Any]]:
    with archive.open(f"{key}.npy") as file:
        pieces: Any = _ByPieces(file)
        found: np.ndarray[Any, np.dtype[Any]] = np.lib.format.read_array(pieces, allow_pickle=False)
    if found.shape != shape or found.dtype != dtype:
        raise ValueError(f"{key} changed while it was read")
    return found
