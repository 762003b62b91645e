"""Plain layers of a network, and which of them follow one another."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hast_cuda.networks.statistics import has_hooks, has_own_forward, is_plain_batch_norm
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
    between: tuple[nn.Module | str, ...]
    """What lies between in order; "relu" is ReLU in any form."""
    norm: _BatchNorm | None = None
    """A BatchNorm right behind the first."""

    @property
    def rectified(self) -> bool:
        """Only ReLU lies between, at least one."""
        return "relu" in self.between and all(kind == "relu" or _is_transparent(kind) for kind in self.between)


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

    def pairs(self, *, normalized: bool = False) -> list[Pair]:
        """Every two convolutions, or linear layers, with only homogeneous operations between.

        ``normalized``: also a BatchNorm with weight and bias behind the first, and ``nn.ReLU6``, which keeps
        f(s*x) = s*f(x) up to its limit only.
        """
        found = []
        for node in self.nodes:
            first = self.plain_layer(node)
            if first is None:
                continue
            user, between = only_user(node), list[nn.Module | str]()
            norm = self._norm(user) if normalized and user is not None else None
            if norm is not None and user is not None:
                user = only_user(user)
            while user is not None and (kind := self._between(user, limited=normalized)) is not None:
                between.append(kind)
                user = only_user(user)
            second = None if user is None else self.plain_layer(user)
            if second is not None and isinstance(first, nn.Conv2d) is isinstance(second, nn.Conv2d):
                found.append(Pair(first, second, tuple(between), norm))
        return found

    def _norm(self, node: fx.Node) -> _BatchNorm | None:
        """The plain BatchNorm with weight and bias of its own that ``node`` calls."""
        norm = self.called_once(node)
        if norm is None or not is_plain_batch_norm(norm):
            return None
        own = [norm._parameters.get(name) for name in ("weight", "bias")]
        return norm if all(p is not None and self._owners[id(p)] == 1 for p in own) else None

    def _between(self, node: fx.Node, *, limited: bool) -> nn.Module | str | None:
        """An operation that scaling of channels passes; None for any other."""
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
        passes = isinstance(module, (*_TRANSPARENT, *_HOMOGENEOUS)) or (limited and type(module) is nn.ReLU6)
        return module if passes else None


def _is_transparent(kind: nn.Module | str) -> bool:
    return isinstance(kind, _TRANSPARENT)


def only_user(node: fx.Node) -> fx.Node | None:
    """The one node that uses ``node``, if there is just one."""
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def unary(node: fx.Node) -> bool:
    """Whether ``node`` takes one argument, by its position."""
    return len(node.args) == 1 and not node.kwargs
