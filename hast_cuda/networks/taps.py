"""Maps of a network, kept on their way through it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from hast_cuda.networks.blocks import require_layers


class Tap(nn.Module):
    """Identity that keeps a copy of what passed through it last.

    Example:
        >>> tap = Tap()
        >>> tap(torch.ones(2)).sum(), tap.take()
        (tensor(2.), tensor([1., 1.]))
    """

    found: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Same tensor."""
        self.found = x.clone()  # what follows may change x in place
        return x

    def take(self) -> Tensor:
        """What passed, forgotten here: it would keep its graph."""
        found, self.found = self.found, None
        if found is None:
            raise RuntimeError("nothing has passed this Tap since the last take(): run a forward pass first")
        return found


class FeatureTap:
    """Forward hooks that collect the outputs of some layers of one network."""

    def __init__(self, model: nn.Module, layers: Sequence[str]) -> None:
        modules = require_layers(model, layers)
        self.active = False  # an evaluation in between must not fill the memory
        self._found: list[Tensor] = []
        self._handles = [modules[name].register_forward_hook(self._record) for name in layers]

    def _record(self, _module: nn.Module, _args: Any, output: Tensor) -> None:
        if self.active:
            # a copy: what follows may change the map in place (+=, an in-place activation)
            self._found.append(output.clone())

    def take(self) -> list[Tensor]:
        """Maps of the forward passes since the last call, in the order of execution."""
        found, self._found = self._found, []
        return found

    def remove(self) -> None:
        """Detach the hooks."""
        for handle in self._handles:
            handle.remove()
        self._found = []
