"""Random resized crop and flip of a whole batch at once, differentiable in the pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hast_cuda.loops.seeding import generator

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
    mirrored = flip.to(boxes.dtype)

    # Bilinear interpolation is separable: one matrix of hat functions per axis. Two products are
    # deterministic in both directions, unlike the scattered gradient of grid_sample on CUDA.
    def weights(start: Tensor, length: Tensor, size: int, mirrored: Tensor | None) -> Tensor:
        centres, away, pixels = _axis(size, boxes.dtype, images.device)
        length = length[:, None]
        if mirrored is not None:
            centres = torch.addcmul(centres, mirrored[:, None], away)
        inside = torch.addcmul(start.new_full((), -0.5), centres, length)
        at = torch.minimum(inside.clamp_(min=0), length - 1).add_(start[:, None])
        hats = (at[:, :, None] - pixels).abs_().neg_().add_(1).clamp_(min=0)
        return hats.to(images.dtype)[:, None]

    rows = weights(top, tall, height, None)
    columns = weights(left, wide, width, mirrored)
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


def random_crop_flip(
    images: Tensor, scale: tuple[float, float], random: torch.Generator,
    ratio: tuple[float, float] = (3 / 4, 4 / 3), flip_probability: float = 0.5,
) -> Tensor:  # fmt: skip
    """One random resized crop and coin-toss mirror per image, [N, C, H, W] -> same, on the device.

    Args:
        images: batch.
        scale: area fraction of the crop.
        random: source of the draws, on the CPU or on the device of ``images``.
        ratio: aspect ratio of the crop.
        flip_probability: chance to mirror an image; 0 for images such as text or digits.
    """
    count, (height, width) = images.shape[0], images.shape[-2:]
    boxes = crop_boxes(count, height, width, scale, ratio, random, random.device)
    flip = torch.rand(count, generator=random, device=random.device) < flip_probability
    return resize_crops(images, boxes.to(images.device), flip.to(images.device))


class CropStream:
    """Crops and mirrors of every iteration, drawn ahead on the CPU and kept on the device.

    The draws depend on the seed and the iteration alone, not on the device or on what ran before.

    Args:
        count: images per iteration.
        size: their (height, width).
        scale: area fraction of the crops.
        flip_probability: chance to mirror an image.
        seed: with ``names`` it names the stream.
        names: see :func:`hast_cuda.loops.seeding.generator`.
        device: of the images.
    """

    AHEAD = 50  # iterations drawn at a time: a few small CPU operations each

    def __init__(
        self, count: int, size: tuple[int, int], scale: tuple[float, float],
        flip_probability: float, device: torch.device, seed: int, *names: object,
    ) -> None:  # fmt: skip
        self.count, self.size, self.scale, self.device = count, size, scale, device
        self.flip_probability = flip_probability
        self.seed, self.names = seed, names
        self.chunk, self.drawn = -1, torch.empty(0)

    def at(self, iteration: int) -> Tensor:
        """[count, 5] float32 (top, left, height, width, mirrored) of an iteration."""
        chunk, index = divmod(iteration, self.AHEAD)
        if chunk != self.chunk:
            random = generator(self.seed, *self.names, chunk)
            total, ratio = self.AHEAD * self.count, (3 / 4, 4 / 3)
            boxes = crop_boxes(total, *self.size, self.scale, ratio, random, random.device)
            flip = torch.rand(total, 1, generator=random) < self.flip_probability
            drawn = torch.cat((boxes, flip.to(boxes.dtype)), 1).view(self.AHEAD, self.count, 5)
            self.chunk, self.drawn = chunk, drawn.to(self.device)
        return self.drawn[index]
