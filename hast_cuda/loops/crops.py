"""Random resized crop and flip of a whole batch at once, differentiable in the pixels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hast_cuda.loops.seeding import generator

ATTEMPTS = 10  # torchvision tries as often before it falls back to a central crop
LEAST, MOST = 3 / 4, 4 / 3  # aspect ratios
Scale = tuple[float, float]


def draw_crops(count: int, size: tuple[int, int], scale: Scale, flips: float, random: torch.Generator) -> Tensor:
    """[count, 5] float32 (top, left, height, width, mirrored), drawn as torchvision does."""
    height, width = size
    draws = torch.rand(4, ATTEMPTS, count, generator=random, device=random.device)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[0])
    low, high = math.log(LEAST), math.log(MOST)
    aspect = torch.exp(low + (high - low) * draws[1])
    wide, tall = torch.round(torch.sqrt(area * aspect)), torch.round(torch.sqrt(area / aspect))
    fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
    top = torch.floor(draws[2] * (height - tall + 1))
    left = torch.floor(draws[3] * (width - wide + 1))
    boxes = torch.stack((top, left, tall, wide))  # [4, attempts, count]
    first = fits.int().argmax(0)  # the first attempt that fits
    chosen = boxes.gather(1, first.expand(4, 1, count))[:, 0]
    fallback = boxes.new_tensor(_central_crop(height, width))[:, None]
    boxes = torch.where(fits.any(0), chosen, fallback).T
    flip = torch.rand(count, 1, generator=random, device=random.device) < flips
    return torch.cat((boxes, flip.to(boxes.dtype)), 1)


def _central_crop(height: int, width: int) -> list[float]:
    tall = round(width / LEAST) if width / height < LEAST else height
    wide = round(height * MOST) if width / height > MOST else width
    return [(height - tall) // 2, (width - wide) // 2, tall, wide]


def resize_crops(images: Tensor, crops: Tensor) -> Tensor:
    """Cut ``crops`` [N, 5] out of [N, C, H, W] images, mirror, and resize to [H, W].

    Equal to torchvision's ``resized_crop(antialias=False)``, differentiable in ``images``.
    """
    height, width = images.shape[-2:]
    top, left, tall, wide, flip = crops.unbind(1)

    # Bilinear interpolation is separable: one matrix of hat functions per axis. Two products are
    # deterministic in both directions, unlike the scattered gradient of grid_sample on CUDA.
    def weights(start: Tensor, length: Tensor, size: int, mirrored: Tensor | None) -> Tensor:
        centres, away, pixels = _axis(size, crops.dtype, images.device)
        length = length[:, None]
        if mirrored is not None:
            centres = torch.addcmul(centres, mirrored[:, None], away)
        inside = torch.addcmul(start.new_full((), -0.5), centres, length)
        at = torch.minimum(inside.clamp_(min=0), length - 1).add_(start[:, None])
        hats = (at[:, :, None] - pixels).abs_().neg_().add_(1).clamp_(min=0)
        return hats.to(images.dtype)[:, None]

    rows, columns = weights(top, tall, height, None), weights(left, wide, width, flip)
    return rows @ images @ columns.transpose(2, 3)


_axes: dict[tuple[int, torch.dtype, torch.device], tuple[Tensor, Tensor, Tensor]] = {}


def _axis(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Pixel centres in (0, 1), their way to the mirrored place, and pixel numbers; made once."""
    key = size, dtype, device
    if key in _axes:
        return _axes[key]
    pixels = torch.arange(size, device=device, dtype=dtype)
    centres = (pixels + 0.5) / size
    axis = centres, 1 - 2 * centres, pixels
    if type(pixels) is Tensor:  # a traced tensor must not outlive its trace
        _axes[key] = axis
    return axis


class CropStream:
    """:func:`draw_crops` of every iteration, drawn ahead on the CPU and kept on the device.

    They depend on ``stream``, a seed and names, and the iteration alone.
    """

    AHEAD = 50  # iterations drawn at a time: a few small CPU operations each

    def __init__(
        self, count: int, size: tuple[int, int], scale: Scale, flips: float, device: torch.device, *stream: Any
    ) -> None:
        self.count, self.choices, self.device, self.stream = (count, (size, scale, flips), device, stream)
        self.chunk, self.drawn = -1, torch.empty(0)

    def at(self, iteration: int) -> Tensor:
        """[count, 5] float32 of an iteration."""
        chunk, index = divmod(iteration, self.AHEAD)
        if chunk != self.chunk:
            random = generator(*self.stream, chunk)
            drawn = draw_crops(self.AHEAD * self.count, *self.choices, random)
            self.chunk, self.drawn = chunk, drawn.view(self.AHEAD, self.count, 5).to(self.device)
        return self.drawn[index]
