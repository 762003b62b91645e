"""Batched random resized crops and flips: torchvision's values, gradients and distribution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as V

from hast_cuda.loops.crops import draw_crops, resize_crops

RATIO = (3 / 4, 4 / 3)


def torchvision_crops(images: Tensor, boxes: Tensor, flip: Tensor) -> Tensor:
    """One image at a time, as torchvision does it."""
    size = list(images.shape[-2:])
    crops = []
    for image, box, mirrored in zip(images, boxes.tolist(), flip.tolist(), strict=True):
        crop = V.resized_crop(image, *(int(v) for v in box), size, antialias=False)
        crops.append(V.horizontal_flip(crop) if mirrored else crop)
    return torch.stack(crops)


def every_box(height: int, width: int) -> Tensor:
    """All (top, left, height, width) inside an image."""
    return torch.tensor(
        [
            (top, left, tall, wide)
            for tall in range(1, height + 1)
            for wide in range(1, width + 1)
            for top in range(height - tall + 1)
            for left in range(width - wide + 1)
        ],
        dtype=torch.float32,
    )


def drawn_boxes(count: int, size: tuple[int, int], scale: tuple[float, float], device: torch.device) -> Tensor:
    random = torch.Generator(device).manual_seed(5)
    return draw_crops(count, size, scale, 0.5, random)[:, :4]


def cut(images: Tensor, boxes: Tensor, flip: Tensor) -> Tensor:
    return resize_crops(images, torch.cat((boxes, flip[:, None].to(boxes.dtype)), 1))


def random_crops(images: Tensor, least: float, seed: int, flips: float = 0.5) -> Tensor:
    random = torch.Generator(images.device).manual_seed(seed)
    size = (images.shape[2], images.shape[3])
    return resize_crops(images, draw_crops(len(images), size, (least, 1.0), flips, random))


@pytest.mark.parametrize("size", [(6, 7), (1, 9), (1, 1)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_every_box_equals_torchvision(device: torch.device, size: tuple[int, int], mirrored: bool) -> None:
    boxes = every_box(*size).to(device)
    images = torch.randn(len(boxes), 2, *size, device=device)
    flip = torch.full((len(boxes),), mirrored, device=device)
    expected = torchvision_crops(images, boxes, flip)
    torch.testing.assert_close(cut(images, boxes, flip), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (33, 50), (224, 224)])
def test_random_boxes_of_real_sizes_equal_torchvision(device: torch.device, size: tuple[int, int]) -> None:
    boxes = drawn_boxes(12, size, (0.08, 1.0), device)
    images = torch.rand(12, 3, *size, device=device)
    flip = torch.arange(12, device=device) % 2 == 1
    expected = torchvision_crops(images, boxes, flip)
    # positions are float32: an error of one part in 2^23 of the image's width
    atol = max(1e-5, max(size) * 2.0**-22)
    torch.testing.assert_close(cut(images, boxes, flip), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("size", [(6, 5), (16, 16)])
def test_gradient_equals_autograd_through_torchvision(device: torch.device, size: tuple[int, int]) -> None:
    boxes = every_box(*size)
    chosen = torch.randperm(len(boxes))[:64]
    boxes = boxes[chosen].to(device)
    flip = torch.arange(64, device=device) % 3 == 0
    images = torch.randn(64, 2, *size, device=device, requires_grad=True)
    upstream = torch.randn(64, 2, *size, device=device)
    expected = torch.autograd.grad(torchvision_crops(images, boxes, flip), images, upstream)[0]
    found = torch.autograd.grad(cut(images, boxes, flip), images, upstream)[0]
    # a pixel of a small crop sums up to H*W contributions
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [(0.5, 1.0), (0.08, 1.0), (1.0, 1.0), (1e-4, 1e-3)])
@pytest.mark.parametrize("size", [(8, 8), (32, 20), (3, 50), (1, 1), (224, 224)])
def test_boxes_stay_inside(device: torch.device, size: tuple[int, int], scale: tuple[float, float]) -> None:
    boxes = drawn_boxes(3000, size, scale, device)
    top, left, tall, wide = boxes.unbind(1)
    assert boxes.shape == (3000, 4)
    assert torch.equal(boxes, boxes.round())
    assert bool(((top >= 0) & (tall >= 1) & (top + tall <= size[0])).all())
    assert bool(((left >= 0) & (wide >= 1) & (left + wide <= size[1])).all())


def largest_gap(ours: Tensor, theirs: Tensor) -> float:
    """Kolmogorov-Smirnov statistic: the largest distance of the two distribution functions."""
    points = torch.cat((ours, theirs)).unique()
    shares = [torch.searchsorted(x.sort().values, points, right=True) / len(x) for x in (ours, theirs)]
    return float((shares[0] - shares[1]).abs().max())


@pytest.mark.parametrize(
    ("size", "scale"),
    # most draws in (8, 20) do not fit: the central crop is frequent
    [((32, 32), (0.5, 1.0)), ((224, 224), (0.08, 1.0)), ((8, 20), (0.5, 1.0))],
)
def test_distribution_equals_torchvisions(
    device: torch.device, size: tuple[int, int], scale: tuple[float, float]
) -> None:
    ours, count = drawn_boxes(40_000, size, scale, device).cpu(), 1000
    image = torch.empty(1, *size)
    get_params = RandomResizedCrop.get_params
    theirs = torch.tensor([get_params(image, list(scale), list(RATIO)) for _ in range(count)])
    allowed = 2.2 * (1 / count + 1 / len(ours)) ** 0.5  # passed by chance once in 10^4
    figures = {
        "area": lambda b: b[:, 2] * b[:, 3],
        "aspect": lambda b: b[:, 3] / b[:, 2],
        "top": lambda b: b[:, 0],
        "left": lambda b: b[:, 1],
        "height": lambda b: b[:, 2],
        "width": lambda b: b[:, 3],
    }
    for name, figure in figures.items():
        gap = largest_gap(figure(ours.double()), figure(theirs.double()))
        assert gap < allowed, f"{name}: gap {gap:.4f}, allowed {allowed:.4f}"
    # not only the margins: where a box may lie depends on its size
    for fewer, offset, limit in ((2, 0, size[0]), (3, 1, size[1])):
        room = [(limit - b[:, fewer]).clamp(min=1) for b in (ours.double(), theirs.double())]
        gap = largest_gap(ours[:, offset] / room[0], theirs[:, offset] / room[1])
        assert gap < allowed


@pytest.mark.parametrize("size", [(8, 64), (64, 8), (5, 33), (33, 5)])
def test_extreme_shapes_fall_back_to_torchvisions_central_crop(device: torch.device, size: tuple[int, int]) -> None:
    boxes = drawn_boxes(50, size, (1.0, 1.0), device)
    expected = RandomResizedCrop.get_params(torch.empty(1, *size), [1.0, 1.0], list(RATIO))
    assert boxes.unique(dim=0).tolist() == [list(expected)]


def test_same_generator_same_augmentation(device: torch.device) -> None:
    images = torch.randn(16, 3, 8, 8, device=device)
    first, second, other = (random_crops(images, 0.5, seed) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_each_image_has_its_own_crop_and_half_are_mirrored(device: torch.device) -> None:
    ramp = torch.arange(16.0, device=device).expand(4000, 1, 16, 16)
    result = random_crops(ramp, 0.3, 3)
    mirrored = result[:, 0, 0, 0] > result[:, 0, 0, -1]
    assert 0.46 < float(mirrored.float().mean()) < 0.54
    assert len(result[:, 0, 0].unique(dim=0)) > 40


@pytest.mark.parametrize("flip_probability", [0.0, 0.5, 1.0])
def test_full_scale_of_a_square_only_mirrors(device: torch.device, flip_probability: float) -> None:
    images = torch.randn(32, 1, 8, 8, device=device)
    result = random_crops(images, 1.0, 0, flip_probability)
    same, mirrored = ((result - t).abs().amax((1, 2, 3)) < 1e-5 for t in (images, images.flip(-1)))
    assert bool((same ^ mirrored).all())
    share = float(mirrored.float().mean())
    assert 0 < share < 1 if flip_probability == 0.5 else share == flip_probability
