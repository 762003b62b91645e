"""What a network takes and gives, found by one forward pass."""

from __future__ import annotations

import torch
from torch import nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import check_image_size, check_values
from hast_cuda.data import InputSpec
from hast_cuda.loops.modes import eval_mode, untouched
from hast_cuda.networks.outputs import gives_logits, output_tensors
from hast_cuda.networks.readable import require_readable
from hast_cuda.networks.statistics import require_float32


@typed
def infer_shape(teacher: nn.Module, size: tuple[int, int, int]) -> InputSpec:
    """The teacher's shape with its number of classes, from one forward pass on [1, C, H, W] zeros.

    What gives logits [N, classes] has classes; any other tensor, or several in tuples, lists and dicts,
    classify nothing: 0 classes.

    Raises:
        ValueError: the network does not take images of this size, or gives something else.

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
            output = teacher(torch.zeros(1, *size, device=device))
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"the network does not take images of shape {size}: {error}") from error
    if gives_logits(output):
        return InputSpec(*size, output.shape[1])
    single = {place or "output": list(x.shape) for place, x in output_tensors(output).items() if x.shape[:1] != (1,)}
    if single:
        raise ValueError(
            f"of one image the network gives {single}; expected tensors [N, ...] with N images: wrap it in a module "
            "whose forward returns what comes before the images are taken apart (of a detector its maps, before boxes "
            "are chosen)"
        )
    return InputSpec(*size, 0)
