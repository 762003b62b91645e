"""What a run is given, checked before any work."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import check_image_size, check_values
from hast_cuda.data import Images, InputSpec
from hast_cuda.loops.modes import eval_mode


@typed
def infer_shape(teacher: nn.Module, size: tuple[int, int, int]) -> InputSpec:
    """The teacher's shape with its number of classes, from one forward pass on [1, C, H, W] zeros.

    Raises:
        ValueError: the network does not take images of this size, or gives no [N, classes] logits.
    """
    check_image_size("size", size)
    check_values("teacher", teacher)
    parameter = next(teacher.parameters(), None)
    device = None if parameter is None else parameter.device
    try:
        with torch.no_grad(), eval_mode(teacher):
            logits = teacher(torch.zeros(1, *size, device=device))
    except RuntimeError as error:
        raise ValueError(f"the network does not take images of shape {size}: {error}") from error
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the network gives {shape}; expected logits [N, classes]")
    return InputSpec(*size, logits.shape[1])


def check_images(images: Images, shape: InputSpec) -> None:
    """ValueError unless the images fit the network's input and classes."""
    expected = (shape.channels, shape.height, shape.width)
    found = images.images
    if not len(found) or tuple(found.shape[1:]) != expected or found.dtype != torch.float32:
        raise ValueError(
            f"images are {list(found.shape)} {found.dtype}; expected "
            f"[N, {', '.join(map(str, expected))}] torch.float32"
        )
    if len(found) != len(images.labels):
        raise ValueError(f"there are {len(found)} images and {len(images.labels)} labels")
    if int(images.labels.min()) < 0 or int(images.labels.max()) >= shape.num_classes:
        raise ValueError(
            f"labels go from {int(images.labels.min())} to {int(images.labels.max())}; the network "
            f"has {shape.num_classes} classes"
        )
    if not bool(torch.isfinite(found).all()):
        raise ValueError("images contain NaN or infinity; delete the shards and run again")
