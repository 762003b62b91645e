"""Images as the engine takes them."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def as_batch(images: Array, shape: tuple[int, int, int]) -> Array:
    """``images`` as a contiguous batch: uint8 pixels [N, H, W, C], or float32 [N, C, H, W], normalised.

    A single image gets an axis in front, and grey pixels [N, H, W] one behind. Floats of another
    width are rounded to float32.

    Args:
        images: pixels from 0 to 255 (uint8), or numbers that are normalised already.
        shape: (C, H, W) of the network.

    Raises:
        TypeError: no array, or integers other than uint8. ValueError: another shape.
    """
    if not isinstance(images, np.ndarray):
        raise TypeError(f"images must be a numpy array, got {type(images).__name__}")
    channels, height, width = shape
    if images.dtype == np.uint8:
        expected: tuple[int, ...] = (height, width, channels)
        if channels == 1 and images.shape[-2:] == (height, width) and images.ndim < 4:
            images = images[..., None]
    elif images.dtype.kind == "f":
        expected, images = shape, images.astype(np.float32, copy=False)
    else:
        raise TypeError(f"images must be uint8 pixels or normalised floats, got {images.dtype}")
    found = images[None] if images.ndim == 3 else images
    if found.shape[1:] != expected:
        kind = "pixels [N, H, W, C]" if images.dtype == np.uint8 else "normalised images [N, C, H, W]"
        sizes = ", ".join(map(str, expected))
        raise ValueError(f"images have shape {list(images.shape)}; expected {kind} of [N, {sizes}]")
    return np.ascontiguousarray(found)


def normalised(images: Array, mean: Array, std: Array) -> Array:
    """float32 [N, C, H, W] of a batch of :func:`as_batch`: ``(pixel / 255 - mean) / std``."""
    if images.dtype == np.float32:
        return images
    planes = images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    column = (1, -1, 1, 1)
    return (planes - mean.astype(np.float32).reshape(column)) / std.astype(np.float32).reshape(column)
