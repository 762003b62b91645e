"""Labelled images: read from files, fitted to a network's input, and accuracy on them."""

from __future__ import annotations

from hast_cuda.data.accuracy import evaluate
from hast_cuda.data.image_set import Images, ImageSet, load_images
from hast_cuda.data.input_spec import (
    NORMALIZATIONS,
    InputSpec,
    parse_normalization,  # noqa: F401
)

__all__ = ["NORMALIZATIONS", "ImageSet", "Images", "InputSpec", "evaluate", "load_images"]
