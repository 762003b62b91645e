"""Eval-mode BatchNorm that takes the residual sum, activation and quantizer behind it along."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hast_cuda.checks.typed import typed
from hast_cuda.networks.statistics import has_running_statistics
from hast_cuda.nn.activation import FakeQuantActivation
from hast_cuda.ops import batch_norm_activation
from hast_cuda.ops.activations import activation_code
from hast_cuda.ops.reference import activate


class FusedBatchNorm2d(nn.Module):
    """``Q(act(BatchNorm(x) + residual))`` in one pass (Eq. 1-2), and Eq. 14 if :attr:`watched`.

    Shares parameters, statistics and range with the modules it stands for; normalises with the
    running statistics whatever the mode. After a forward, :attr:`energy` ([N, C]) and
    :attr:`positions` (per map) describe the normalised map before the residual: its attention
    vector, or its squared distance from :attr:`target`, which serves one forward. If
    :attr:`mapped`, :attr:`map` is that map. With :attr:`twice` forward gives its output as two
    aliases, one for each place that uses it.
    While the range is being tracked the parts run one after the other.

    Example:
        >>> norm, x = torch.nn.BatchNorm2d(3).eval(), torch.randn(2, 3, 4, 4)
        >>> fused = FusedBatchNorm2d(norm, "relu", None)
        >>> torch.allclose(fused(x), norm(x).relu(), atol=1e-6)
        True
    """

    energy: Tensor | None = None
    positions: int = 1
    map: Tensor | None = None
    target: Tensor | None = None

    @typed
    def __init__(self, norm: _BatchNorm, activation: str | None, quantizer: FakeQuantActivation | None) -> None:
        super().__init__()
        if not has_running_statistics(norm):
            raise ValueError("norm has no running statistics (track_running_stats=True), which it needs")
        if quantizer is None:
            activation_code(activation)
        self.norm, self.quantizer = norm, quantizer
        self.activation = activation if quantizer is None else quantizer.activation
        self.watched = self.mapped = self.twice = False

    def forward(self, input: Tensor, residual: Any = None) -> Tensor | tuple[Tensor, Tensor]:
        """[N, C, ...] -> same; ``residual`` is anything that can be added."""
        quantizer = self.quantizer
        apart = quantizer is not None and (quantizer.observing or quantizer.set_aside)
        if fits(residual, input) and not apart:
            outputs = self._run(input, residual, self.activation, quantizer, twice=self.twice)
            return (outputs[0], outputs[1]) if self.twice else outputs[0]
        (y,) = self._run(input, None, None, None, twice=False)
        if residual is not None:
            y = y + residual
        y = activate(y, self.activation) if quantizer is None else quantizer(y)
        return (y, y) if self.twice else y

    def take(self) -> tuple[Tensor, int]:
        """(energy, positions) of the last forward, forgotten here: they would keep its graph."""
        return self._taken("energy", "watched", "take()"), self.positions

    def take_map(self) -> Tensor:
        """The map of the last forward, forgotten here."""
        return self._taken("map", "mapped", "take_map()")

    def _taken(self, name: str, flag: str, method: str) -> Tensor:
        found = getattr(self, name)
        if not isinstance(found, Tensor):
            raise RuntimeError(f"there is no {name}: set {flag}, and run a forward pass before each {method}")
        setattr(self, name, None)
        return found

    def _run(
        self,
        x: Tensor,
        residual: Tensor | None,
        activation: str | None,
        quantizer: FakeQuantActivation | None,
        *,
        twice: bool,
    ) -> list[Tensor]:
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        state = None if quantizer is None else quantizer.state_for(x)
        target, self.target = self.target, None
        parts = norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps
        y, energy, *more = batch_norm_activation(
            x,
            *parts,
            activation=activation,
            residual=residual,
            state=state,
            bits=4 if quantizer is None else quantizer.bits,
            ste="identity" if quantizer is None else quantizer.ste,
            energy=self.watched,
            target=None if target is None else target.to(x.dtype),
            normalized=self.mapped,
            twice=twice,
        )
        if self.mapped:
            self.map, *more = more
        if self.watched:
            self.energy, self.positions = energy, x[0, 0].numel()
        return [y, *more]


def fits(residual: Any, x: Tensor) -> bool:
    """Whether the fused op can add ``residual`` to ``x`` as it is."""
    return residual is None or (
        isinstance(residual, Tensor) and residual.shape == x.shape and residual.dtype == x.dtype
    )
