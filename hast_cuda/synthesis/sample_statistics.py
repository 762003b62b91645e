"""Statistics of every image on its own, where the fused BatchNorm has those of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from hast_cuda.ops import batch_norm_match


def sample_statistics(x: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over space of every image and channel, in one launch.

    The variance is biased, as in Eq. 3: that of ZeroQ's published code divides by the positions
    minus 1, which is 0 for a 1x1 map.

    Args:
        x: [N, C, ...]; a channels_last map is copied.
        mean: [C], near the means to be found; sums are taken of the distance to it.
        var: [C], positive.

    Returns:
        Two [N, C], float32 (float64 for float64), with gradient to ``x``.
    """
    images, channels, *space = x.shape
    # The op has statistics per channel: every image's channels become channels of their own.
    flat = x.reshape(1, images * channels, *space)
    _, means, variances = batch_norm_match(flat, mean.repeat(images), var.repeat(images))
    return means.view(images, channels), variances.view(images, channels)


class SampleStatistics:
    """Reads :func:`sample_statistics` of the input of every one of ``layers``, by hooks.

    Attributes:
        found: (mean, variance) per layer that the last forward reached.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self.found: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        for layer in layers:
            layer.register_forward_pre_hook(self._record)

    def _record(self, layer: Any, args: tuple[Any, ...]) -> None:
        self.found[layer] = sample_statistics(args[0], layer.running_mean, layer.running_var)
