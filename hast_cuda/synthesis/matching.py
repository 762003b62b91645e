"""How far the images' statistics are from those that the teacher has stored: Eq. 3, ZeroQ, DSG."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hast_cuda.merged import BatchStatistics
from hast_cuda.ops import batch_norm_match
from hast_cuda.ops.match_loss import REDUCTIONS
from hast_cuda.synthesis.config import SynthesisConfig

EPSILON = 1e-6  # ZeroQ's, under the root: a constant map has a finite gradient


def sample_statistics(x: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance [N, C] over space of every image and channel, in one launch.

    ZeroQ's published code divides by the positions minus 1, which is 0 for a 1x1 map. ``mean`` [C]
    is near the means to be found: sums are taken of the distance to it; ``var`` [C] is positive.
    """
    images, channels, *space = x.shape
    # The op has statistics per channel: every image's channels become channels of their own.
    flat = x.reshape(1, images * channels, *space)
    _, means, variances = batch_norm_match(flat, mean.repeat(images), var.repeat(images))
    return means.view(images, channels), variances.view(images, channels)


class Gap(NamedTuple):
    """Statistics of one layer minus the stored ones; a row per image, or one for the batch."""

    layer: nn.Module | None
    """None is the image itself."""
    mean: Tensor
    """[rows, C]."""
    spread: Tensor
    """[rows, C], of the variance or of its root."""


class Matching:
    """The loss of ``config`` on the statistics that the last forward of the teacher found.

    Of layer l and row r (an image, or the batch) ``d`` is the gap of the means, then of the
    spreads, beyond the slack: ``max(|gap| - slack_l, 0)``. With ``w`` the layer emphasis the loss
    is, by ``match_reduction``,

    - "mse": ``mean_l mean_r w_lr mean_c d^2`` (Eq. 3 as released),
    - "norm": ``mean_l mean_r w_lr ||d||_2`` (Eq. 3 as printed),
    - "sum": ``sum_l mean_r w_lr sum_c d^2`` (ZeroQ, DSG),
    - "relative": as "mse", of ``d / u_l``: ``u_l = sqrt(s_l)`` for means and standard deviations,
      ``s_l`` for variances, with ``s_l = mean_c(running_var)``, or 1 where that is 0.

    With ``config.statistics == "sample"`` the teacher's layers get hooks: one object per run.
    """

    def __init__(self, statistics: BatchStatistics, config: SynthesisConfig) -> None:
        self.statistics, self.config = statistics, config
        self.per_sample = config.statistics == "sample"
        self.samples: dict[Any, tuple[Tensor, Tensor]] = {}  # per layer that a forward reached
        if self.per_sample:
            for layer in statistics.layers:
                layer.register_forward_pre_hook(self._record)
            statistics.after_recomputing.append(self.samples.clear)
        self._weights: dict[torch.Size, Tensor] = {}  # by shape: a new constant is a launch
        self.stored = {layer: (layer.running_mean, self._spread(layer.running_var)) for layer in statistics.layers}
        # Per layer (None is the image), of mean and spread, 0-d; none where missing.
        self.units: dict[nn.Module | None, tuple[Tensor, Tensor]] = {}
        self.slack: dict[nn.Module | None, tuple[Tensor, Tensor]] = {}
        if config.match_reduction == "relative":
            self.units = {layer: self._unit(layer.running_var) for layer in statistics.layers}
        # One launch for all layers, where the fused op knows the loss.
        self.fused = (
            (config.statistics, config.spread) == ("batch", "variance")
            and config.match_reduction in REDUCTIONS
            and not config.match_input
            and not config.slack_percentile
        )

    def loss(self, images: Tensor) -> Tensor:
        """0-d loss of the last forward, which was given ``images`` [N, C, H, W]."""
        if self.fused:
            return self.statistics.loss(self.config.match_reduction)
        gaps = self.gaps(images)
        rows = torch.stack([self._rows(gap) for gap in gaps])
        if self.config.layer_emphasis:
            rows = rows * self._emphasis(rows, sum(gap.layer is not None for gap in gaps))
        layers = rows.mean(1)
        return layers.sum() if self.config.match_reduction == "sum" else layers.mean()

    def gaps(self, images: Tensor) -> list[Gap]:
        """The gaps of the last forward, in the order of the layers, then the image's if matched."""
        found = self._found()
        if not found:
            raise ValueError("no BatchNorm layer was reached: run a forward pass first")
        gaps = []
        for layer, (mean, var) in found.items():
            stored_mean, stored_spread = (s.to(mean.dtype) for s in self.stored[layer])
            gaps.append(Gap(layer, mean - stored_mean, self._spread(var) - stored_spread))
        if self.config.match_input:
            mean, var = self._of_images(images)
            gaps.append(Gap(None, mean, self._spread(var) - 1))
        self.forget()
        return gaps

    def forget(self) -> None:
        """Drop the statistics of the last forward, which hold its graph."""
        self.statistics.forget()
        self.samples.clear()

    def _record(self, layer: Any, args: tuple[Any, ...]) -> None:
        self.samples[layer] = sample_statistics(args[0], layer.running_mean, layer.running_var)

    def _found(self) -> dict[nn.Module, tuple[Tensor, Tensor]]:
        layers = self.statistics.layers
        if self.per_sample:
            return {layer: self.samples[layer] for layer in layers if layer in self.samples}
        reached = [m for m in layers if getattr(m, "batch_mean", None) is not None]
        return {m: (m.batch_mean[None], m.batch_var[None]) for m in reached}

    def _of_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.zeros(images.shape[1], device=images.device)
        if self.per_sample:
            return sample_statistics(images, mean, torch.ones_like(mean))
        _, mean, var = batch_norm_match(images, mean, torch.ones_like(mean))
        return mean[None], var[None]

    def _spread(self, var: Tensor) -> Tensor:
        return (var + EPSILON).sqrt() if self.config.spread == "std" else var

    def _unit(self, var: Tensor) -> tuple[Tensor, Tensor]:
        scale = torch.where(var.mean() == 0, 1.0, var.mean())
        return scale.sqrt(), scale.sqrt() if self.config.spread == "std" else scale

    def _rows(self, gap: Gap) -> Tensor:
        """[rows]: the loss of one layer before the average over rows."""
        layer, reduction = gap.layer, self.config.match_reduction
        losses: list[Tensor] = []
        for index, difference in enumerate((gap.mean, gap.spread)):
            d = difference
            if layer in self.slack:
                d = (d.abs() - self.slack[layer][index]).clamp(min=0)
            if layer in self.units:
                d = d / self.units[layer][index].to(d.dtype)
            if reduction == "norm":
                losses.append(torch.linalg.vector_norm(d, dim=1))
            else:
                losses.append(d.square().sum(1) if reduction == "sum" else d.square().mean(1))
        return losses[0] + losses[1]

    def _emphasis(self, rows: Tensor, layers: int) -> Tensor:
        """Weights like ``rows``: 1 + emphasis where image i meets layer i modulo ``layers``."""
        if rows.shape not in self._weights:
            index = torch.arange(len(rows), device=rows.device)  # that of the input meets no image
            own = torch.arange(rows.shape[1], device=rows.device) % layers
            meets = (index[:, None] == own).to(rows.dtype)
            self._weights[rows.shape] = 1 + self.config.layer_emphasis * meets
        return self._weights[rows.shape]
