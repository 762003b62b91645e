"""A network's graph, and the names under which sums and activations are written in it.

torch.fx follows the forward of any network without data-dependent control flow, so operations are
found wherever they are written: as modules, as functions, one ReLU used in many places.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from hast_cuda.loops.modes import untouched
from hast_cuda.networks.statistics import has_own_forward, has_running_statistics

_OWN = ("hast_cuda.nn", "hast_cuda.merged", "hast_cuda.networks", "hast_cuda.synthesis")  # whose modules are one node
_CONSTANTS = (bool, int, float, str, type(None))


def _assignment(name: str) -> Callable[[Any, Any], Any]:
    """``x += y`` as a call: what torch.fx writes for ``operator.iadd`` renames numbers, too."""
    operation = getattr(operator, name)

    def assign(x: Any, y: Any) -> Any:
        return operation(x, y)

    assign.__name__ = assign.__qualname__ = name
    return assign


iadd, isub, imul, itruediv = map(_assignment, ("iadd", "isub", "imul", "itruediv"))
ASSIGNMENTS = (iadd, isub, imul, itruediv, operator.iadd, operator.isub, operator.imul, operator.itruediv)
ADD = (operator.add, operator.iadd, torch.add, iadd)
ADD_METHODS = ("add", "add_")


class CannotMergeError(Exception):
    """The network cannot be followed; the message says why."""


def is_own(module: nn.Module) -> bool:
    """Whether ``module`` is of one of this package's layers."""
    return type(module).__module__.startswith(_OWN)


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The network's own class, of a block whose output is quantized too."""
    found: type[nn.Module] = getattr(type(module), "plain_class", type(module))
    return found


class _Value(fx.Proxy):
    """Knows ``x += y`` from ``x = x + y``, which leaves the tensor x as it is."""

    def __iadd__(self, other: Any) -> Any:
        return self._assign(iadd, other)

    def __isub__(self, other: Any) -> Any:
        return self._assign(isub, other)

    def __imul__(self, other: Any) -> Any:
        return self._assign(imul, other)

    def __itruediv__(self, other: Any) -> Any:
        return self._assign(itruediv, other)

    def _assign(self, operation: Callable[[Any, Any], Any], other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operation, (self, other), {})


class Tracer(fx.Tracer):
    """Stops at plain layers, BatchNorm and this package's layers; remembers which nodes a module took and gave."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[str, list[fx.Node]] = {}
        self.inputs: dict[str, list[fx.Node | None]] = {}
        self.mode = _mode()

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """The node, where a graph computes it as the network does."""
        if _mode() != self.mode:
            raise CannotMergeError("its forward has autocast or torch.no_grad() in it, which no graph keeps")
        return super().create_node(*args, **kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """The value of a node in the forward pass that is followed."""
        return _Value(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Modules that are one node."""
        own = is_own(m) and not getattr(m, "is_followed", False)
        plain = isinstance(m, (nn.Conv2d, nn.Linear)) and not has_own_forward(m)  # also a subclass that only has a name
        return own or plain or has_running_statistics(m) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Node, or what a module that is followed gives."""
        if isinstance(m, nn.Sequential) and not any(m is known for known in self.root.modules()):
            return forward(*args, **kwargs)  # layers[1:] in a forward; its own are registered
        given = args[0].node if args and isinstance(args[0], fx.Proxy) else None
        self.inputs.setdefault(self.path_of_module(m), []).append(given)
        result = super().call_module(m, forward, args, kwargs)
        if isinstance(result, fx.Proxy):
            self.outputs.setdefault(self.path_of_module(m), []).append(result.node)
        return result


def trace(model: nn.Module) -> tuple[fx.GraphModule, dict[str, list[fx.Node]]]:
    """Graph of ``model``, whose modules it shares, and the nodes that each module gave.

    The graph takes images; other arguments of forward have their defaults in it. ``meta["inputs"]``
    of the result has the node that each call of a module took first. CannotMergeError if torch.fx
    cannot follow it.
    """
    for name, module in model.named_modules():
        if type(module).__call__ is not nn.Module.__call__ and not isinstance(module, fx.GraphModule):
            raise CannotMergeError(f"{name or 'the network'} has a __call__ of its own, which would run twice")
    if "forward" in vars(model):
        raise CannotMergeError("its forward was replaced on the instance; torch.fx follows that of the class")
    with untouched(model), torch.enable_grad():
        tracer = Tracer()
        try:
            graph = tracer.trace(model, _defaults(model))
        except CannotMergeError:
            raise
        except Exception as error:  # whatever the network's own code raises when given proxies
            reason = str(error).partition("\n")[0]
            raise CannotMergeError(f"torch.fx cannot follow its forward ({type(error).__name__}: {reason})") from error
        _forget_defaults(graph)
        network = fx.GraphModule(model, graph)
    network.meta["inputs"] = tracer.inputs
    return network, tracer.outputs


def _mode() -> tuple[bool, ...]:
    return torch.is_grad_enabled(), *(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda"))


def _defaults(model: nn.Module) -> dict[str, Any]:
    """What forward finds in its other arguments when it is called with images alone."""
    images, *others = inspect.signature(model.forward).parameters.values()
    if images.kind is inspect.Parameter.VAR_POSITIONAL:
        raise CannotMergeError(f"its forward takes images as one of *{images.name}")
    return {p.name: p.default for p in others if isinstance(p.default, _CONSTANTS)}


def _forget_defaults(graph: fx.Graph) -> None:
    """Take out arguments that have their default, and the checks that they do."""
    _, *nodes = graph.nodes
    gone: list[fx.Node] = []
    for node in nodes:
        default = node.op == "placeholder" and node.args and isinstance(node.args[0], _CONSTANTS)
        rest = node.op == "placeholder" and str(node.target).startswith("*") and not node.users
        if default or rest or (node.all_input_nodes and all(n in gone for n in node.all_input_nodes)):
            gone.append(node)
    for node in reversed(gone):
        graph.erase_node(node)
