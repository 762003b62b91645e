"""The demo's data: 1,797 real handwritten 8x8 digits (UCI, shipped with scikit-learn)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

WHITE = 16  # the largest pixel value; pixels are counts 0..16
MEAN, STD = (0.3058,), (0.3764,)  # of the training split, after division by WHITE
SEED = 0
HELD_OUT_PER_CLASS = 60

Split = Literal["train", "test"]


def load_digit_images(split: Split) -> tuple[Tensor, Tensor]:
    """The fixed stratified split: uint8 [N, 1, 8, 8] of 0 to 16 and int64 [N]; 1,197 to train on, 600 held out.

    ImportError: scikit-learn is not installed. ValueError: another split.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split={split!r}: the digits have the splits 'train' and 'test'")
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415 - optional, slow to import
    except ImportError as error:
        raise ImportError(
            "the digits come with scikit-learn, which is not installed: pip install scikit-learn"
        ) from error
    pixels, labels = load_digits(return_X_y=True)
    held_out = _held_out(labels)
    chosen = held_out if split == "test" else np.setdiff1d(np.arange(len(labels)), held_out)
    images = pixels[chosen].reshape(-1, 1, 8, 8).astype(np.uint8)
    return torch.from_numpy(images), torch.from_numpy(labels[chosen].astype(np.int64))


def _held_out(labels: np.ndarray) -> np.ndarray:
    """Sorted indices int64 [600] of the held-out images."""
    # RandomState and not Generator: NumPy promises that its stream never changes, and the
    # embedded weights have seen every image that this function does not return.
    random = np.random.RandomState(SEED)
    members = [np.flatnonzero(labels == digit) for digit in range(10)]
    return np.sort(np.concatenate([random.permutation(m)[:HELD_OUT_PER_CLASS] for m in members]))
