"""Plain layers of a network, and which of them follow one another."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from hast_cuda.networks.statistics import has_hooks, has_own_forward
from hast_cuda.networks.tracing import CannotMergeError, trace
from hast_cuda.ops.activations import FUNCTIONS, METHODS

# Channel by channel, f(s*x) = s*f(x) for s > 0 and f(x + c) = f(x) + c.
_TRANSPARENT = (nn.Identity, nn.modules.dropout._DropoutNd)
# Only the former; an average over zero padding does not keep a constant.
_HOMOGENEOUS = (nn.LeakyReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


@dataclass(frozen=True)
class Pair:
    """Two layers of which the second alone uses the first one's output."""

    first: nn.Conv2d | nn.Linear
    second: nn.Conv2d | nn.Linear
    rectified: bool
    """Only ReLU lies between, at least one."""


class LayerGraph:
    """The graph of a network, as far as passes over its weights need it."""

    def __init__(self, model: nn.Module) -> None:
        try:
            traced, _ = trace(model)
        except CannotMergeError as reason:
            raise ValueError(
                f"the layers that follow one another cannot be found: {reason}; use the network "
                "without folding, equalization and bias absorption"
            ) from reason
        self.modules = dict(traced.named_modules())
        self.nodes = list(traced.graph.nodes)
        self._calls = Counter(n.target for n in self.nodes if n.op == "call_module")
        self._read = {str(n.target).rpartition(".")[0] for n in self.nodes if n.op == "get_attr"}
        self._owners = Counter(id(p) for m in self.modules.values() for p in m.parameters(recurse=False))

    def called_once(self, node: fx.Node) -> nn.Module | None:
        """The module that ``node`` calls with one argument, if nothing else calls it or reads what it holds."""
        alone = node.op == "call_module" and self._calls[node.target] == 1 and node.target not in self._read
        return self.modules[str(node.target)] if alone and unary(node) else None

    def plain_layer(self, node: fx.Node) -> nn.Conv2d | nn.Linear | None:
        """Convolution or linear layer whose weights no other call uses and that can be edited."""
        layer = self.called_once(node)
        if not isinstance(layer, (nn.Conv2d, nn.Linear)):
            return None
        own = list(layer.parameters(recurse=False))
        plain = (
            not has_own_forward(layer)  # as quantized layers have
            and not has_hooks(layer)
            and "weight" in layer._parameters  # not computed from other parameters
            and all(self._owners[id(p)] == 1 for p in own)
        )
        return layer if plain else None

    def pairs(self) -> list[Pair]:
        """Every two convolutions, or linear layers, with only homogeneous operations between."""
        found = []
        for node in self.nodes:
            first = self.plain_layer(node)
            if first is None:
                continue
            kinds, user = [], only_user(node)
            while user is not None and (kind := self._between(user)) is not None:
                kinds.append(kind)
                user = only_user(user)
            second = None if user is None else self.plain_layer(user)
            if second is not None and isinstance(first, nn.Conv2d) is isinstance(second, nn.Conv2d):
                rectified = "relu" in kinds and set(kinds) <= {"relu", "transparent"}
                found.append(Pair(first, second, rectified))
        return found

    def _between(self, node: fx.Node) -> str | None:
        """Kind of an operation that scaling of channels passes; None for any other."""
        target: Any = node.target
        if node.op in ("call_function", "call_method"):
            names = FUNCTIONS | METHODS
            plain = len(node.args) == 1 and set(node.kwargs) <= {"inplace"}
            return "relu" if plain and names.get(target) == "relu" else None
        if node.op != "call_module" or not unary(node):
            return None
        module = self.modules[target]
        if type(module) is nn.ReLU:
            return "relu"
        if isinstance(module, _TRANSPARENT):
            return "transparent"
        return "homogeneous" if isinstance(module, _HOMOGENEOUS) else None


def only_user(node: fx.Node) -> fx.Node | None:
    """The one node that uses ``node``, if there is just one."""
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def unary(node: fx.Node) -> bool:
    """Whether ``node`` takes one argument, by its position."""
    return len(node.args) == 1 and not node.kwargs
