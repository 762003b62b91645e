"""Random resized crop and flip of a whole batch at once, differentiable in the pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ATTEMPTS = 10  # torchvision tries as often before it falls back to a central crop


def crop_boxes(
    count: int, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float],
    random: torch.Generator, device: torch.device,
) -> Tensor:  # fmt: skip
    """[count, 4] boxes (top, left, height, width), drawn like torchvision's RandomResizedCrop."""
    draws = torch.rand(4, ATTEMPTS, count, generator=random, device=device)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * draws[1])
    wide, tall = torch.round(torch.sqrt(area * aspect)), torch.round(torch.sqrt(area / aspect))
    fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
    top = torch.floor(draws[2] * (height - tall + 1))
    left = torch.floor(draws[3] * (width - wide + 1))
    boxes = torch.stack((top, left, tall, wide))  # [4, attempts, count]
    first = fits.int().argmax(0)  # the first attempt that fits
    chosen = boxes.gather(1, first.expand(4, 1, count))[:, 0]
    fallback = boxes.new_tensor(_central_crop(height, width, ratio))[:, None]
    return torch.where(fits.any(0), chosen, fallback).T.contiguous()


def _central_crop(height: int, width: int, ratio: tuple[float, float]) -> list[float]:
    if width / height < ratio[0]:
        tall, wide = round(width / ratio[0]), width
    elif width / height > ratio[1]:
        tall, wide = height, round(height * ratio[1])
    else:
        tall, wide = height, width
    return [(height - tall) // 2, (width - wide) // 2, tall, wide]


def resize_crops(images: Tensor, boxes: Tensor, flip: Tensor) -> Tensor:
    """Cut ``boxes`` out of [N, C, H, W] images, resize to [H, W] and mirror where ``flip``.

    Equal to torchvision's ``resized_crop(antialias=False)`` per image: samples between pixel
    centres of the crop, its border repeated. Differentiable in ``images``.
    """
    height, width = images.shape[-2:]
    top, left, tall, wide = boxes.unbind(1)

    def positions(start: Tensor, length: Tensor, size: int) -> Tensor:
        centres = (torch.arange(size, device=images.device, dtype=boxes.dtype) + 0.5) / size
        inside = centres * length[:, None] - 0.5
        return start[:, None] + inside.clamp(min=0).minimum(length[:, None] - 1)

    rows, columns = positions(top, tall, height), positions(left, wide, width)
    columns = torch.where(flip[:, None], columns.flip(1), columns)

    # Bilinear interpolation is separable: one matrix of hat functions per axis. Two products are
    # deterministic in both directions, unlike the scattered gradient of grid_sample on CUDA.
    def weights(at: Tensor, size: int) -> Tensor:
        pixels = torch.arange(size, device=images.device, dtype=boxes.dtype)
        return (1 - (at[:, :, None] - pixels).abs()).clamp(min=0).to(images.dtype)[:, None]

    return weights(rows, height) @ images @ weights(columns, width).transpose(2, 3)


def random_crop_flip(
    images: Tensor, scale: tuple[float, float], random: torch.Generator,
    ratio: tuple[float, float] = (3 / 4, 4 / 3), flip_probability: float = 0.5,
) -> Tensor:  # fmt: skip
    """One random resized crop and coin-toss mirror per image, [N, C, H, W] -> same, on the device.

    Args:
        images: batch; ``random`` must live on its device.
        scale: area fraction of the crop.
        random: source of the draws.
        ratio: aspect ratio of the crop.
        flip_probability: chance to mirror an image; 0 for images such as text or digits.
    """
    count, (height, width) = images.shape[0], images.shape[-2:]
    boxes = crop_boxes(count, height, width, scale, ratio, random, images.device)
    flip = torch.rand(count, generator=random, device=images.device) < flip_probability
    return resize_crops(images, boxes, flip)
