"""A network cut into blocks that follow one another: one tensor goes in, one comes out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from hast_cuda.networks.statistics import has_running_statistics
from hast_cuda.networks.tracing import CannotMergeError, plain_class, trace
from hast_cuda.ops.activations import FUNCTIONS, METHODS

MOST_LAYERS = 8  # a repeated class with more weights than that is a stage, not a block
_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_ACTIVATIONS = nn.modules.activation.__name__  # where torch has all of them


@dataclass(frozen=True)
class Block:
    """A part of a network that takes what the part before it gives."""

    name: str
    """That of the module it is or, for a part without one, of its first layer with weights."""
    network: nn.Module
    """[N, ...] -> [N, ...]; shares the modules of the network."""


def block_modules(model: nn.Module) -> set[str]:
    """Names of the modules that are blocks: residual units, inverted residuals, dense layers.

    The outermost modules of a class that occurs at least twice, with at least one and at most
    ``MOST_LAYERS`` convolutions and linear layers inside.
    """
    found = {
        name: module
        for name, module in model.named_modules()
        if name
        and not isinstance(module, (*_CONTAINERS, *_WEIGHTED))
        and 1 <= sum(isinstance(m, _WEIGHTED) for m in module.modules()) <= MOST_LAYERS
    }
    kinds = {name: plain_class(module) for name, module in found.items()}
    counts = Counter(kinds.values())
    repeated = {name for name, kind in kinds.items() if counts[kind] > 1}
    return {n for n in repeated if not any(n.startswith(f"{other}.") for other in repeated if other != n)}


def cut_into_blocks(model: nn.Module) -> list[Block]:
    """``model`` as blocks in the order of execution, whose chain is the network.

    Cut is where a single tensor is alive. A module of :func:`block_modules` stays whole, and so
    does whatever branches without being one; elsewhere a block is a layer with weights and the
    normalisation and activation behind it. Pooling and reshaping belong to the layer that follows.

    Raises:
        CannotMergeError: torch.fx cannot follow the network.

    Example:
        >>> import hast_cuda as hc
        >>> [block.name for block in cut_into_blocks(hc.load_teacher("digits"))][:2]
        ['stem.0', 'blocks.0']
    """
    network, _ = trace(model)
    modules = dict(network.named_modules())
    whole = block_modules(model)
    nodes = [n for n in network.graph.nodes if n.op not in ("placeholder", "output", "get_attr")]
    parts = _joined(_narrowest(nodes, whole), modules)
    (value,) = (n for n in network.graph.nodes if n.op == "placeholder")
    blocks = []
    for part in parts:
        blocks.append(Block(_name(part, whole, modules), _submodule(network, part, value)))
        value = part[-1]
    returned = next(n for n in network.graph.nodes if n.op == "output").args[0]
    if returned is not value:
        raise CannotMergeError("its result is not one tensor that its last operation gives")
    return blocks


def _scope(node: fx.Node, whole: set[str]) -> str | None:
    """The module of ``whole`` in whose forward ``node`` was met."""
    stack: dict[str, tuple[str, Any]] = node.meta.get("nn_module_stack", {})
    return next((path for path, _ in stack.values() if path in whole), None)


def _narrowest(nodes: Sequence[fx.Node], whole: set[str]) -> list[list[fx.Node]]:
    """Parts between the places where one tensor is alive and no module of ``whole`` goes on."""
    end, place = len(nodes), {node: index for index, node in enumerate(nodes)}

    def last_use(node: fx.Node, index: int) -> int:
        return max((place.get(user, end) for user in node.users), default=index)

    scopes = [_scope(node, whole) for node in nodes]
    parts: list[list[fx.Node]] = [[]]
    alive = 0  # the place up to which anything older than the present value is read
    for index, node in enumerate(nodes):
        parts[-1].append(node)
        for value in node.all_input_nodes:
            if value.op == "placeholder":
                alive = max(alive, last_use(value, index))
        inside = scopes[index] is not None and scopes[index + 1 : index + 2] == [scopes[index]]
        if alive <= index and index + 1 < end and not inside:
            parts.append([])
        alive = max(alive, last_use(node, index))
    return parts


def _joined(parts: Sequence[list[fx.Node]], modules: dict[str, nn.Module]) -> list[list[fx.Node]]:
    """Parts with weights; the others belong to the one before if they only normalise or activate."""
    joined: list[list[fx.Node]] = []
    waiting: list[fx.Node] = []
    for part in parts:
        weighted = any(_module(n, modules, _WEIGHTED) for n in part)
        if joined and not weighted and not waiting and all(_follows(n, modules) for n in part):
            joined[-1].extend(part)
        elif weighted:
            joined.append([*waiting, *part])
            waiting = []
        else:
            waiting.extend(part)
    if not joined:
        raise CannotMergeError("it has no convolution or linear layer")
    joined[-1].extend(waiting)
    return joined


def _module(node: fx.Node, modules: dict[str, nn.Module], kinds: Any) -> bool:
    return node.op == "call_module" and isinstance(modules[str(node.target)], kinds)


def _follows(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether ``node`` normalises or activates, element by element."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        element = isinstance(module, (nn.Identity, nn.modules.dropout._DropoutNd))
        kind = type(module).__module__
        return element or has_running_statistics(module) or kind in (_ACTIVATIONS, "hast_cuda.nn.activation")
    return (node.target in FUNCTIONS) if node.op == "call_function" else (node.target in METHODS)


def _name(part: Sequence[fx.Node], whole: set[str], modules: dict[str, nn.Module]) -> str:
    first = next(n for n in part if _module(n, modules, _WEIGHTED))
    return _scope(first, whole) or str(first.target)


def _submodule(network: fx.GraphModule, part: Sequence[fx.Node], value: fx.Node) -> nn.Module:
    graph = fx.Graph()
    copies = {value: graph.placeholder("x")}

    def copied(node: fx.Node) -> fx.Node:
        if node not in copies:  # a parameter or constant, wherever it is read
            copies[node] = graph.node_copy(node, copied)
        return copies[node]

    for node in part:
        copies[node] = graph.node_copy(node, copied)
    graph.output(copies[part[-1]])
    return fx.GraphModule(network, graph).eval()
