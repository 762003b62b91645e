"""Folders of labelled images: torchvision's CIFAR folders and one folder per class."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset
from torchvision.transforms.v2 import functional as transforms

from hast_cuda.data.image_set import fit
from hast_cuda.data.input_spec import InputSpec

_CIFAR = {CIFAR10.base_folder: (CIFAR10, 10), CIFAR100.base_folder: (CIFAR100, 100)}
_LARGEST_CIFAR = 2**28  # bytes of one of CIFAR's files; the largest published one has 1.6e8
_LARGEST_IMAGE = 8 * 10**7  # pixels, of 3 bytes each; PIL warns of 9e7 itself
# By content, not by name: PIL would start Ghostscript for a PostScript file called a.png.
_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
# What PIL raises on broken files.
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
# Some data sets, ImageNet among them, publish the labels of "val" only.
_SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val")}


def is_cifar_folder(path: Path) -> bool:
    """Whether ``path`` is one of torchvision's CIFAR folders or has one inside."""
    return path.name in _CIFAR or any((path / name).is_dir() for name in _CIFAR)


def cifar_folder(path: Path, spec: InputSpec, split: str) -> tuple[Tensor, Tensor]:
    """CIFAR-10 or CIFAR-100 as uint8 [N, 3, 32, 32] and int64 [N]; ValueError: not the published files, or both sets.

    CIFAR's files are pickles. torchvision compares the MD5 of each with the published one before
    it opens it, so no other pickle is ever loaded.
    """
    root = path.parent if path.name in _CIFAR else path
    names = [path.name] if path.name in _CIFAR else [n for n in _CIFAR if (path / n).is_dir()]
    if len(names) > 1:  # the folder of someone who has both
        names = [n for n in names if _CIFAR[n][1] == spec.num_classes]
        if not names:
            raise ValueError(
                f"data={path} holds {' and '.join(_CIFAR)}, the network has {spec.num_classes} "
                "classes: give the one folder to use"
            )
    kind, _ = _CIFAR[names[0]]
    for file in sorted((root / names[0]).iterdir()):
        # Checksums of a device or a giant file would never come to an end.
        if not file.is_file() or file.stat().st_size > _LARGEST_CIFAR:
            raise ValueError(
                f"data={file} is none of the published files: unpack {kind.filename} from {kind.url} again"
            )
    try:
        with warnings.catch_warnings():
            # The published pickles predate NumPy 2.4, which warns about how they spell a dtype.
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            dataset = kind(str(root), train=split == "train", download=False)
    except RuntimeError as error:
        raise ValueError(
            f"data={root / names[0]} is incomplete or differs from the published files (MD5): "
            f"unpack {kind.filename} from {kind.url} again"
        ) from error
    images = torch.from_numpy(np.ascontiguousarray(dataset.data.transpose(0, 3, 1, 2)))
    return images, torch.tensor(dataset.targets, dtype=torch.int64)


def image_folder(path: Path, spec: InputSpec, split: str) -> tuple[Callable[[Sequence[int]], Tensor], Tensor]:
    """Reader (indices -> uint8 [B, C, H, W]) and labels int64 [N]; images are opened when read.

    Folders named by numbers have these as labels; others count in sorted order; hidden ones are no
    classes. ValueError: no class folders, an empty one, or another number than the network's classes.
    """
    named = [path / name for name in _SPLIT_FOLDERS[split] if (path / name).is_dir()]
    root = named[0] if named else path
    if not named and any((path / name).is_dir() for name in ("train", "test", "val")):
        raise ValueError(f"data={path} has no folder {' or '.join(_SPLIT_FOLDERS[split])} for split={split!r}")
    # Before any folder is searched, which of a wrong one, such as /, would never end.
    entries = [entry for entry in os.scandir(root) if not entry.name.startswith(".")]  # .ipynb_checkpoints
    names = sorted(entry.name for entry in entries if entry.is_dir())
    if not names:
        raise ValueError(f"data={root} is not a folder with one folder of images per class")
    numbered = all(name.isdecimal() for name in names)
    if numbered and (high := max(map(int, names))) >= 2**31:
        raise ValueError(f"data={root} has a folder for label {high}, which no network has")
    if not numbered and len(names) != spec.num_classes:
        raise ValueError(
            f"data={root} has {len(names)} class folders, the network has {spec.num_classes} "
            "classes: give all of them, or name the folders by their labels (0, 1, ...)"
        )
    try:
        places = {name: index for index, name in enumerate(names)}
        files: list[tuple[str, int]] = make_dataset(str(root), places, IMG_EXTENSIONS)
    except FileNotFoundError as error:
        raise ValueError(f"data={root} is not a folder with one folder of images per class ({error})") from error
    _check_places(root, [name for name, _ in files])
    labels = [int(names[index]) if numbered else index for _, index in files]

    def read(indices: Sequence[int]) -> Tensor:
        return torch.stack([_read_image(files[i][0], spec) for i in indices])

    return read, torch.tensor(labels, dtype=torch.int64)


def _check_places(root: Path, files: Sequence[str]) -> None:
    """ValueError for what is no file, or lies elsewhere behind a link."""
    inside = root.resolve()
    for name in files:
        place = Path(name).resolve()
        if not place.is_relative_to(inside):
            raise ValueError(
                f"data={name} is a link to {place}, outside of {root}: copy the images, or give "
                "the folder where they are"
            )
        if not place.is_file():
            raise ValueError(f"data={name} is not a file: remove it from the folder")


def _colours(image: Image.Image) -> Image.Image:
    """RGB of 8 bits; transparency is left out, as torchvision's folders do."""
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if deep:  # PIL would cut them off at 255
        values = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode not in _MODES:
        raise ValueError(f"pixels of mode {image.mode!r} have no known white: save it with 8 or 16 bits")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _read_image(file: str, spec: InputSpec) -> Tensor:
    """uint8 [C, H, W]."""
    try:
        with Image.open(file, formats=_FORMATS) as image:
            width, height = image.size
            if width * height > _LARGEST_IMAGE:
                raise ValueError(f"{width}x{height} pixels, more than {_LARGEST_IMAGE} in all")
            colours = _colours(image)
    except _UNREADABLE as error:
        raise ValueError(f"data: {file} is not a readable image ({error})") from error
    pixels: Tensor = transforms.pil_to_tensor(colours)
    if spec.channels == 1:
        pixels = transforms.rgb_to_grayscale(pixels)
    return fit(pixels, spec, file)
