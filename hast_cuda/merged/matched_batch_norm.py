"""BatchNorm layers that also report the statistics of the batch they normalise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import check_range
from hast_cuda.merged.fused_batch_norm import fits
from hast_cuda.merged.merge import merge_batch_norms, warn_unmerged
from hast_cuda.merged.segments import checkpoint_segments
from hast_cuda.networks.statistics import has_running_statistics, is_plain_batch_norm, require_batch_norm
from hast_cuda.networks.swap import swap_modules
from hast_cuda.networks.tracing import CannotMergeError
from hast_cuda.ops import batch_norm_match, match_loss
from hast_cuda.ops.reference import activate


class MatchedBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` in eval mode that keeps the statistics of its input batch (Eq. 3).

    Always normalises with the running statistics and never changes them, whatever the mode.
    :attr:`activation` and the residual given to forward are applied in the same pass; with
    :attr:`twice` forward gives two aliases of its output. After a forward, :attr:`batch_mean` and
    :attr:`batch_var` ([C], float32 or float64) carry gradients to the input.

    Example:
        >>> layer = MatchedBatchNorm2d.from_float(torch.nn.BatchNorm2d(3))
        >>> y = layer(x := torch.randn(2, 3, 4, 4))
        >>> torch.allclose(layer.batch_mean, x.mean((0, 2, 3)), atol=1e-6)
        True
    """

    batch_mean: Tensor | None = None
    batch_var: Tensor | None = None
    activation: str | None = None
    twice: bool = False

    def forward(self, input: Tensor, residual: Any = None) -> Any:
        """[N, C, ...] -> same; records the statistics. ``residual`` is anything to add."""
        if self.running_mean is None or self.running_var is None:
            raise ValueError("MatchedBatchNorm2d needs running statistics (track_running_stats=True)")
        fused = fits(residual, input)
        parts = self.running_mean, self.running_var, self.weight, self.bias, self.eps
        y, self.batch_mean, self.batch_var, *again = batch_norm_match(
            input,
            *parts,
            activation=self.activation if fused else None,
            residual=residual if fused else None,
            twice=fused and self.twice,
        )
        if not fused:
            y = activate(y + residual, self.activation)
            again = [y]
        return (y, again[0]) if self.twice else y

    def __getstate__(self) -> dict[str, Any]:
        """Without the last forward's statistics: copies and pickles cannot hold its graph."""
        passing = ("batch_mean", "batch_var")
        return {key: value for key, value in vars(self).items() if key not in passing}

    @classmethod
    @typed
    def from_float(cls, norm: _BatchNorm) -> MatchedBatchNorm2d:
        """Layer that uses the parameters and statistics of ``norm`` (shared, not copied)."""
        layer = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, device="meta")
        layer.weight, layer.bias = norm.weight, norm.bias
        layer.running_mean, layer.running_var = norm.running_mean, norm.running_var
        layer.num_batches_tracked = norm.num_batches_tracked
        return layer.train(norm.training)


class BatchStatistics:
    """Every BatchNorm of a network made to report statistics, and their loss (Eq. 3).

    Args:
        model: in eval mode; edited in place: BatchNorm modules become :class:`MatchedBatchNorm2d`.
            Modules that have running statistics but their own forward, or hooks, are read through
            a hook instead.
        merge: let BatchNorm layers take along residual sum and activation; :attr:`model` is then
            another module than the argument. A network that torch.fx cannot follow stays as it is,
            with a warning.
        segments: with ``merge``, checkpoint the activations of so many parts of the network; 0
            keeps them all.

    Attributes:
        after_recomputing: called when the backward pass has run a segment again; a hook that keeps
            what it sees of a forward pass must drop it there, or all activations stay alive.

    Raises:
        ValueError: no layer has running statistics; segments of a network that torch.fx cannot
            follow.

    Example:
        >>> import hast_cuda as hc
        >>> statistics = BatchStatistics(hc.load_teacher("digits"))
        >>> logits = statistics.model(torch.randn(4, 1, 8, 8))
        >>> bool(statistics.loss() > 0)
        True
    """

    @typed
    def __init__(self, model: nn.Module, *, merge: bool = False, segments: int = 0) -> None:
        check_range("segments", segments, 0, 10_000)
        require_batch_norm(model)
        self.layers: list[Any] = []
        self.after_recomputing: list[Callable[[], None]] = [self.forget]
        self.model = swap_modules(model, self._convert)
        if merge:
            try:
                merged = merge_batch_norms(self.model, self._take_along).model
            except CannotMergeError as reason:
                if segments:
                    raise ValueError(f"the network cannot be cut in segments to checkpoint: {reason}") from reason
                warn_unmerged(reason)
            else:
                self.model = merged
                if segments:
                    self.model = checkpoint_segments(merged, segments, self._recomputed)

    def _recomputed(self) -> None:
        for drop in self.after_recomputing:
            drop()

    def _take_along(self, norm: Any, activation: str | None, quantizer: Any) -> nn.Module | None:
        if not isinstance(norm, MatchedBatchNorm2d) or quantizer is not None:
            return None
        layer = MatchedBatchNorm2d.from_float(norm)
        layer.activation = activation
        self.layers[self.layers.index(norm)] = layer
        return layer

    def _convert(self, _: str, module: nn.Module) -> nn.Module | None:
        if not has_running_statistics(module):
            return None
        if is_plain_batch_norm(module):
            layer = MatchedBatchNorm2d.from_float(module)
            self.layers.append(layer)
            return layer
        module.register_forward_pre_hook(_record)
        self.layers.append(module)
        return None

    def loss(self, reduction: str = "mse") -> Tensor:
        """Eq. 3 over the layers reached by the last forward."""
        reached = [m for m in self.layers if getattr(m, "batch_mean", None) is not None]
        if not reached:
            raise ValueError("no BatchNorm layer was reached: run a forward pass first")
        means, variances = [m.batch_mean for m in reached], [m.batch_var for m in reached]
        running = (
            [m.running_mean.to(s.dtype) for m, s in zip(reached, means, strict=True)],
            [m.running_var.to(s.dtype) for m, s in zip(reached, variances, strict=True)],
        )
        loss = match_loss(means, variances, *running, reduction=reduction)
        self.forget()
        return loss

    def forget(self) -> None:
        """Drop the statistics: a layer that the next forward skips must not keep this graph."""
        for module in self.layers:
            module.batch_mean = module.batch_var = None


def _record(module: Any, args: tuple[Any, ...]) -> None:
    _, module.batch_mean, module.batch_var = batch_norm_match(
        args[0], module.running_mean, module.running_var, eps=getattr(module, "eps", 1e-5)
    )
