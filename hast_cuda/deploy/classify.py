"""Image files to class names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hast_cuda.deploy.engine import Engine

Array = np.ndarray[Any, Any]
BATCH = 64  # images that are read before they are run


@dataclass(frozen=True)
class Guess:
    """One of the classes that an image may belong to."""

    index: int
    """Of the logit."""
    name: str
    """What the file calls it; its number where the file has no names."""
    probability: float
    """Softmax of the logits."""


def read_pixels(path: Path | str, shape: tuple[int, int, int]) -> Array:
    """uint8 [H, W, C] of an image file; another size is scaled on its short side and cut in the middle.

    Args:
        path: of a file that Pillow reads.
        shape: (C, H, W) of the network; C is 1 or 3.

    Raises:
        ImportError: Pillow is not installed. OSError: no image file. ValueError: other channels.
    """
    try:
        from PIL import Image, ImageOps  # noqa: PLC0415 - optional
    except ModuleNotFoundError as error:
        raise ImportError("reading image files needs Pillow: pip install pillow") from error
    channels, height, width = shape
    if channels not in (1, 3):
        raise ValueError(f"the network takes {channels} channels; image files have 1 or 3")
    with Image.open(path) as image:
        found = image.convert("L" if channels == 1 else "RGB")
    if found.size != (width, height):
        found = ImageOps.fit(found, (width, height), Image.Resampling.BILINEAR)
    return np.asarray(found, np.uint8).reshape(height, width, channels)


def classify(engine: Engine, paths: Sequence[Path | str], *, top: int = 1, threads: int = 0) -> Iterator[list[Guess]]:
    """For each image file its ``top`` most probable classes, the first first.

    Args:
        engine: from :func:`hast_cuda.deploy.load`.
        paths: of the files.
        top: how many classes.
        threads: see :meth:`Engine.run`.

    Raises:
        ValueError: top below 1; otherwise as :func:`read_pixels`.

    Example:
        >>> engine = load("student.hast")  # doctest: +SKIP
        >>> [guess.name for (guess,) in classify(engine, ["cat.png"])]  # doctest: +SKIP
        ['cat']
    """
    if top < 1:
        raise ValueError(f"top is {top}; allowed: at least 1")
    for begin in range(0, len(paths), BATCH):
        pixels = np.stack([read_pixels(path, engine.input_shape) for path in paths[begin : begin + BATCH]])
        logits = engine.run(pixels, threads=threads).astype(np.float64)
        for row in logits:
            shares = np.exp(row - row.max())
            shares /= shares.sum()
            order = np.argsort(-row, kind="stable")[:top]
            names = engine.classes
            yield [Guess(int(i), names[i] if names else str(i), float(shares[i])) for i in order]


def report(engine: Engine, paths: Sequence[Path | str], *, top: int = 1, threads: int = 0) -> Iterator[str]:
    """A line for each file: its name, and its classes with their probabilities."""
    for path, guesses in zip(paths, classify(engine, paths, top=top, threads=threads), strict=True):
        yield f"{path}: " + ", ".join(f"{guess.name} ({100 * guess.probability:.1f} %)" for guess in guesses)
