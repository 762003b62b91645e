"""What a network takes and gives, found by one forward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import check_image_size, check_values
from hast_cuda.data import InputSpec
from hast_cuda.loops.modes import eval_mode, untouched
from hast_cuda.networks.readable import require_readable
from hast_cuda.networks.statistics import require_float32


@typed
def infer_shape(teacher: nn.Module, size: tuple[int, int, int]) -> InputSpec:
    """The teacher's shape with its number of classes, from one forward pass on [1, C, H, W] zeros.

    Raises:
        ValueError: the network does not take images of this size, or gives no [N, classes] logits.

    Example:
        >>> import hast_cuda as hc
        >>> infer_shape(hc.load_teacher("digits"), (1, 8, 8)).num_classes
        10
    """
    check_image_size("size", size)
    check_values("teacher", teacher)
    require_readable(teacher)
    require_float32(teacher)
    parameter = next(teacher.parameters(), None)
    device = None if parameter is None else parameter.device
    try:
        with torch.no_grad(), untouched(teacher), eval_mode(teacher):
            logits = teacher(torch.zeros(1, *size, device=device))
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"the network does not take images of shape {size}: {error}") from error
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"the network gives {shape}; expected logits [N, classes]: wrap it in a module whose forward returns them"
        )
    return InputSpec(*size, logits.shape[1])
