"""Images as a network takes them, and as bytes that files hold."""

from __future__ import annotations

import torch
from torch import Tensor

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import check_images
from hast_cuda.data import InputSpec


def _normalization(spec: InputSpec, images: Tensor) -> tuple[Tensor, Tensor]:
    if images.dim() != 4 or images.shape[1] != spec.channels:
        raise ValueError(f"images are {list(images.shape)}; expected [N, {spec.channels}, H, W]")
    mean, std = (torch.tensor(v, device=images.device).view(1, -1, 1, 1) for v in (spec.mean, spec.std))
    return mean, std


@typed
def to_pixels(images: Tensor, spec: InputSpec) -> Tensor:
    """Normalised images as bytes, ``round(255 (x std + mean))``, clipped to 0 to 255.

    Args:
        images: [N, C, H, W], floating point, finite.
        spec: mean and std per channel, of pixels in [0, 1].

    Returns:
        uint8 [N, C, H, W].

    Raises:
        ValueError: other channels, or values that are not finite.

    Example:
        >>> spec = hc.InputSpec(1, 1, 3, 10, mean=(0.5,), std=(0.25,))
        >>> to_pixels(torch.tensor([[[[-2.0, 0.0, 9.0]]]]), spec).flatten().tolist()
        [0, 128, 255]
    """
    check_images("images", images)
    mean, std = _normalization(spec, images)
    if not bool(images.isfinite().all()):
        raise ValueError("images contain NaN or infinity, which no byte stands for")
    return ((images.float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


@typed
def to_normalized(pixels: Tensor, spec: InputSpec) -> Tensor:
    """Bytes as the network takes them, ``(x / 255 - mean) / std``.

    Args:
        pixels: uint8 [N, C, H, W].
        spec: mean and std per channel, of pixels in [0, 1].

    Returns:
        float32 [N, C, H, W].

    Raises:
        ValueError: other channels or dtypes.

    Example:
        >>> spec = hc.InputSpec(1, 1, 2, 10, mean=(0.5,), std=(0.25,))
        >>> to_normalized(torch.tensor([[[[0, 255]]]], dtype=torch.uint8), spec).flatten().tolist()
        [-2.0, 2.0]
    """
    if pixels.dtype != torch.uint8:
        raise ValueError(f"pixels are {pixels.dtype}; expected torch.uint8")
    mean, std = _normalization(spec, pixels)
    return (pixels.float() / 255 - mean) / std
