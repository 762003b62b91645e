"""Labelled bytes in the layouts that calibrators read."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from hast_cuda.files.whole import explained


def _png(folder: Path, pixels: Tensor, labels: Tensor | None) -> None:
    """A folder per class, named by its number, or "images"; the names of all files are in order of the set."""
    from PIL import Image  # noqa: PLC0415 - arrays need none

    folders = ["images"] * len(pixels) if labels is None else labels.tolist()
    for number, (image, name) in enumerate(zip(pixels.numpy(), folders, strict=True)):
        kind = folder / str(name)
        kind.mkdir(exist_ok=True)
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(kind / f"{number:06d}.png")


def _npy(folder: Path, pixels: Tensor, labels: Tensor | None) -> None:
    for name, array in _arrays(pixels, labels).items():
        np.save(folder / f"{name}.npy", array)


def _npz(folder: Path, pixels: Tensor, labels: Tensor | None) -> None:
    np.savez_compressed(folder / "images.npz", **_arrays(pixels, labels))


def _arrays(pixels: Tensor, labels: Tensor | None) -> dict[str, Any]:
    return {"images": pixels.numpy()} | ({} if labels is None else {"labels": labels.numpy()})


WRITERS: dict[str, Callable[[Path, Tensor, Tensor | None], None]] = {"png": _png, "npy": _npy, "npz": _npz}


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder that becomes ``path`` on success and vanishes on failure.

    Raises:
        FileExistsError: something is at ``path``.
    """
    if path.exists():
        raise FileExistsError(f"{path} is there already: give another folder, or remove it")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(part, ignore_errors=True)  # of a killed process that had this number
        part.mkdir()
        try:
            yield part
            part.rename(path)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def write_images(folder: Path, to: str, pixels: Tensor, labels: Tensor | None) -> dict[str, str]:
    """Write uint8 [N, C, H, W] and int64 [N], or None, in a layout of :data:`WRITERS`; sha256 by name of each file."""
    WRITERS[to](folder, pixels.permute(0, 2, 3, 1).contiguous(), labels)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
