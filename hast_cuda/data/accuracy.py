"""Top-1 accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_device, check_values, explained_forward
from hast_cuda.data.image_set import Images, ImageSet
from hast_cuda.data.loaders import count_of, pairs
from hast_cuda.loops.allocator import freed_memory_kept
from hast_cuda.loops.modes import eval_mode
from hast_cuda.loops.progress import Progress


@typed
@torch.no_grad()  # not inference_mode: a network may keep a buffer that it makes here
@freed_memory_kept()
def evaluate(
    model: nn.Module,
    images: Images | ImageSet | Iterable[Sequence[Any]],
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
) -> float:
    """Top-1 accuracy in percent, in eval mode; modes and device of ``model`` are restored.

    Args:
        model: float32 [N, C, H, W] -> logits [N, classes].
        images: labelled, in memory or read from files batch by batch; or batches (images, labels), normalised,
            such as a DataLoader gives.
        batch_size: images per forward pass; those of a DataLoader stay as they are.
        device: where to compute; None is where the model's first parameter is.

    Raises:
        ValueError: logits of another shape, fewer of them than labels, or not finite; no image.

    Example:
        >>> import hast_cuda as hc
        >>> test = hc.load_images("digits", spec=hc.InputSpec(1, 8, 8, 10), limit=20)
        >>> 0 <= hc.evaluate(hc.load_teacher("digits"), test) <= 100
        True
    """
    check_values("model", model)
    home = next((p.device for p in model.parameters()), torch.device("cpu"))
    target = home if device is None else as_device(device)
    seen, total = 0, count_of(images, batch_size)
    correct = torch.zeros((), dtype=torch.int64, device=target)
    finite = torch.ones((), dtype=torch.bool, device=target)
    try:
        model.to(target)
        with eval_mode(model), Progress("evaluate", total, leave=False, quiet=not total) as progress:
            for x, labels in pairs(images, batch_size):
                with explained_forward("images", x):
                    logits: Tensor = model(x.to(target))
                _check_logits(logits, labels)
                seen += len(labels)
                correct += (logits.argmax(1) == labels.to(target)).sum()
                finite &= logits.isfinite().all()
                progress.update()
    finally:
        model.to(home)
    if not finite:
        source = getattr(images, "source", "the images")
        raise ValueError(
            f"{type(model).__name__} gives NaN or infinite logits on {source}: its weights "
            "or ranges are broken, an accuracy would mean nothing"
        )
    if not seen:
        raise ValueError("images is empty: there is nothing to measure an accuracy on")
    return 100.0 * int(correct) / seen


def _check_logits(logits: Tensor, labels: Tensor) -> None:
    batch, highest = len(labels), int(labels.max())
    if not isinstance(logits, Tensor):
        raise ValueError(f"the model gives a {type(logits).__name__}; it must give logits")
    if logits.ndim != 2 or len(logits) != batch:
        raise ValueError(
            f"the model gives logits {list(logits.shape)} for {batch} images; it must give [{batch}, classes]"
        )
    if logits.shape[1] <= highest:
        raise ValueError(
            f"the model has {logits.shape[1]} classes, the labels go up to {highest}: give the "
            "data set that the network was trained for"
        )
