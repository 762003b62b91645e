"""Top-1 accuracy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_device, check_values, explained_forward
from hast_cuda.data.image_set import Images, ImageSet
from hast_cuda.loops.allocator import freed_memory_kept
from hast_cuda.loops.modes import eval_mode
from hast_cuda.loops.progress import Progress


@typed
@torch.no_grad()  # not inference_mode: a network may keep a buffer that it makes here
@freed_memory_kept()
def evaluate(
    model: nn.Module, images: Images | ImageSet, *, batch_size: int = 256, device: torch.device | str | None = None
) -> float:
    """Top-1 accuracy in percent, in eval mode; modes and device of ``model`` are restored.

    Args:
        model: float32 [N, C, H, W] -> logits [N, classes].
        images: labelled, in memory or read from files batch by batch.
        batch_size: images per forward pass.
        device: where to compute; None is where the model's first parameter is.

    Raises:
        ValueError: logits of another shape, fewer of them than labels, or not finite.

    Example:
        >>> import hast_cuda as hc
        >>> test = hc.load_images("digits", spec=hc.InputSpec(1, 8, 8, 10), limit=20)
        >>> 0 <= hc.evaluate(hc.load_teacher("digits"), test) <= 100
        True
    """
    check_values("model", model)
    home = next((p.device for p in model.parameters()), torch.device("cpu"))
    target = home if device is None else as_device(device)
    highest = int(images.labels.max())
    correct = torch.zeros((), dtype=torch.int64, device=target)
    finite = torch.ones((), dtype=torch.bool, device=target)
    try:
        model.to(target)
        count = -(-len(images) // max(batch_size, 1))
        with eval_mode(model), Progress("evaluate", count, leave=False) as progress:
            for x, labels in images.batches(batch_size):
                with explained_forward("images", x):
                    logits: Tensor = model(x.to(target))
                _check_logits(logits, len(labels), highest)
                correct += (logits.argmax(1) == labels.to(target)).sum()
                finite &= logits.isfinite().all()
                progress.update()
    finally:
        model.to(home)
    if not finite:
        raise ValueError(
            f"{type(model).__name__} gives NaN or infinite logits on {images.source}: its weights "
            "or ranges are broken, an accuracy would mean nothing"
        )
    return 100.0 * int(correct) / len(images)


def _check_logits(logits: Tensor, batch: int, highest: int) -> None:
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
