"""Labelled bytes in the layouts that calibrators read."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from hast_cuda.calibration.pixels import to_normalized
from hast_cuda.calibration.tfrecord import write_tfrecord
from hast_cuda.data import InputSpec
from hast_cuda.files.whole import explained


@dataclass(frozen=True)
class Content:
    """What is written."""

    pixels: Tensor
    """uint8 [N, H, W, C]."""
    labels: Tensor | None
    """int64 [N]; None: there are no classes."""
    spec: InputSpec
    """With the normalisation."""

    def arrays(self) -> dict[str, Any]:
        """Images and labels, if there are some."""
        return {"images": self.pixels.numpy()} | ({} if self.labels is None else {"labels": self.labels.numpy()})


def _png(folder: Path, content: Content) -> None:
    """A folder per class, named by its number, or "images"; the names of all files are in order of the set."""
    from PIL import Image  # noqa: PLC0415 - arrays need none

    folders = ["images"] * len(content.pixels) if content.labels is None else content.labels.tolist()
    for number, (image, name) in enumerate(zip(content.pixels.numpy(), folders, strict=True)):
        kind = folder / str(name)
        kind.mkdir(exist_ok=True)
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(kind / f"{number:06d}.png")


def _npy(folder: Path, content: Content) -> None:
    for name, array in content.arrays().items():
        np.save(folder / f"{name}.npy", array)


def _npz(folder: Path, content: Content) -> None:
    np.savez_compressed(folder / "images.npz", **content.arrays())


def _tfrecord(folder: Path, content: Content) -> None:
    labels = None if content.labels is None else content.labels.tolist()
    write_tfrecord(folder / "images.tfrecord", content.pixels.numpy(), labels)


def _hailo(folder: Path, content: Content) -> None:
    """Bytes: the device normalises."""
    np.save(folder / "calib_set.npy", content.pixels.numpy())


def _normalized(folder: Path, content: Content) -> None:
    """As the network takes them, float32 [N, C, H, W]: the bytes, normalised."""
    images = to_normalized(content.pixels.permute(0, 3, 1, 2), content.spec)
    np.save(folder / "images.npy", images.contiguous().numpy())


WRITERS: dict[str, Callable[[Path, Content], None]] = {
    "png": _png,
    "npy": _npy,
    "npz": _npz,
    "tfrecord": _tfrecord,
    "hailo": _hailo,
    "tensorrt": _normalized,
    "openvino": _normalized,
    "onnxruntime": _normalized,
}


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder that becomes ``path``, where nothing may be yet, on success and vanishes on failure."""
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


def write_images(folder: Path, to: str, pixels: Tensor, labels: Tensor | None, spec: InputSpec) -> dict[str, str]:
    """Write uint8 [N, C, H, W] and int64 [N], or None, in a layout of :data:`WRITERS`; sha256 by name of each file."""
    WRITERS[to](folder, Content(pixels.permute(0, 2, 3, 1).contiguous(), labels, spec))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
