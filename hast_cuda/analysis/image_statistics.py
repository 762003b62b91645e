"""How far images' statistics are from those that a network has stored (Eq. 3, layer by layer)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_device, check_images, check_range, check_values, explained_forward
from hast_cuda.loops.modes import copied
from hast_cuda.networks import has_running_statistics

BATCH = 256


@dataclass(frozen=True)
class StatisticGap:
    """Of one layer, averaged over its channels; 0 where the images match."""

    mean: float
    """``mean_c |mean - running_mean| / sqrt(s)``, ``s = mean_c(running_var)``, or 1 where 0."""
    variance: float  # ``mean_c |var - running_var| / s``


@typed
@torch.no_grad()
def statistic_gaps(
    network: nn.Module, images: Tensor, *, batch_size: int = BATCH, device: torch.device | str = "cpu"
) -> dict[str, StatisticGap]:
    """Gaps between the statistics of all ``images`` together and the stored ones, by layer.

    Args:
        network: with BatchNorm layers; copied, run in eval mode.
        images: [N, C, H, W], normalised.
        batch_size: images per forward pass; it changes rounding only.
        device: where to compute.

    Returns:
        In the order in which the layers are first reached; layers that are not reached are missing.

    Raises:
        ValueError: no images, or no BatchNorm layer is reached.

    Example:
        >>> import hast_cuda as hc
        >>> teacher, x = hc.load_teacher("digits"), torch.randn(8, 1, 8, 8)
        >>> next(iter(statistic_gaps(teacher, x).values())).mean > 0
        True
    """
    model = _copied(network, images, batch_size, device)
    layers = _layers(model)
    sums: dict[str, Tensor] = {}  # per layer: count, sum and sum of squares around the stored mean

    def record(name: str, _module: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0]
        var, mean = torch.var_mean(x, [d for d in range(x.dim()) if d != 1], correction=0)
        shift, count = mean.double() - layers[name].running_mean.double(), x.numel() // len(mean)
        sums[name] = sums.get(name, 0.0) + torch.stack(
            [torch.full_like(shift, count), count * shift, count * (var.double() + shift.square())]
        )

    for name, layer in layers.items():
        layer.register_forward_pre_hook(partial(record, name))
    _run(model, images, batch_size, device)
    if not sums:
        raise ValueError("network reaches no BatchNorm layer with running statistics: nothing to match")
    return {name: _gap(layers[name], *found) for name, found in sums.items()}


@typed
@torch.no_grad()
def reestimate_batch_norms(
    network: nn.Module, images: Tensor, *, batch_size: int = BATCH, device: torch.device | str = "cpu"
) -> nn.Module:
    """A copy of ``network`` whose BatchNorm statistics are those of ``images``, batch averages.

    Its accuracy tells how well images stand for the data that the network was trained on: with
    images of that data it stays what it was.

    Args:
        network: with BatchNorm layers; copied.
        images: [N, C, H, W], normalised.
        batch_size: images per forward pass; the last, smaller batch counts like the others.
        device: where to compute, and of the copy.

    Returns:
        In eval mode.

    Raises:
        ValueError: no images, no BatchNorm layer, or one that gets a single value per channel.

    Example:
        >>> import hast_cuda as hc
        >>> teacher, x = hc.load_teacher("digits"), torch.randn(8, 1, 8, 8)
        >>> reestimate_batch_norms(teacher, x).training
        False
    """
    model = _copied(network, images, batch_size, device)
    layers = _layers(model)
    if not layers:
        raise ValueError("the network has no BatchNorm layer with running statistics to estimate anew")
    momenta = {name: getattr(layer, "momentum", None) for name, layer in layers.items()}
    for layer in layers.values():
        layer.reset_running_stats()
        layer.momentum = None  # the average over all batches
        layer.train()
    _run(model, images, batch_size, device)
    for name, layer in layers.items():
        layer.momentum = momenta[name]
    return model.eval()


def _copied(network: nn.Module, images: Tensor, batch_size: int, device: torch.device | str) -> nn.Module:
    check_values("network", network)
    check_images("images", images)
    check_range("batch_size", batch_size, 1, 2**20)
    return copied(network).to(as_device(device)).eval()


def _run(model: nn.Module, images: Tensor, batch_size: int, device: torch.device | str) -> None:
    for batch in images.split(batch_size):
        with explained_forward("images", batch):
            model(batch.to(device))


def _layers(model: nn.Module) -> dict[str, Any]:
    return {name: m for name, m in model.named_modules() if has_running_statistics(m)}


def _gap(layer: Any, count: Tensor, total: Tensor, squares: Tensor) -> StatisticGap:
    """Of sums around the running mean."""
    mean, stored = total / count, layer.running_var.double()
    gap = (squares / count - mean.square() - stored).abs().mean()
    scale = float(stored.mean()) or 1.0
    return StatisticGap(float(mean.abs().mean()) / scale**0.5, float(gap) / scale)
