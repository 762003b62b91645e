"""Images to the network's size: shorter side resized, then the centre."""

from __future__ import annotations

from torch import Tensor

from hast_cuda.data.input_spec import InputSpec


def fit(images: Tensor, spec: InputSpec, source: str) -> Tensor:
    """uint8 [..., H, W] -> uint8 [..., spec.height, spec.width].

    Raises:
        ValueError: another size than the network's and ``spec.resize`` is None.
    """
    height, width = images.shape[-2:]
    if (height, width) == (spec.height, spec.width):
        return images
    if spec.resize is None:
        raise ValueError(
            f"data={source} has images of {height}x{width} pixels, the network takes exactly "
            f"{spec.height}x{spec.width}: resize them, or give the network they belong to"
        )
    from torchvision.transforms.v2 import functional as transforms  # noqa: PLC0415 - takes seconds

    resized: Tensor = transforms.resize(images, [spec.resize], antialias=True)
    cropped: Tensor = transforms.center_crop(resized, [spec.height, spec.width])
    return cropped
