"""Find BatchNorm, residual sum and activation in a network's graph and make one module of them."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hast_cuda.checks.typed import typed
from hast_cuda.loops.warn import warn_caller
from hast_cuda.networks.in_place import edited, edited_between, read_again
from hast_cuda.networks.layer_graph import only_user, unary
from hast_cuda.networks.statistics import has_hooks, has_running_statistics, is_patched, is_plain_batch_norm
from hast_cuda.networks.taps import Tap
from hast_cuda.networks.tracing import ADD, ADD_METHODS, CannotMergeError, is_own, trace
from hast_cuda.nn.activation import FakeQuantActivation
from hast_cuda.ops.activations import FUNCTIONS, METHODS, MODULES

# What stands for a BatchNorm and what follows it; None leaves the BatchNorm as it is.
Fuse = Callable[[Any, str | None, FakeQuantActivation | None], nn.Module | None]
_PURE = (nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


@dataclass
class Merged:
    """A network whose BatchNorm layers take along what follows them.

    ``watched`` has, for every name asked for, the module that knows its output: one that ``fuse``
    made, or a :class:`Tap`.
    """

    model: fx.GraphModule
    """Shares parameters and statistics with the original."""
    watched: dict[str, nn.Module] = field(default_factory=dict)
    """By name in the original network."""


@dataclass
class _Chain:
    """A BatchNorm node and the nodes that it takes along."""

    norm: fx.Node
    last: fx.Node
    residual: fx.Node | None = None
    activation: str | None = None
    quantizer: FakeQuantActivation | None = None


def _residual(node: fx.Node, value: fx.Node, modules: dict[str, nn.Module]) -> fx.Node | None:
    """What ``node`` adds to ``value``, in either order; None if it is no such sum.

    A sum in place with ``value`` on the right changes the other operand, which must be read no
    more: the merged sum leaves it as it is.
    """
    if node.op == "call_function":
        if node.target not in ADD:
            return None
    elif node.op != "call_method" or node.target not in ADD_METHODS:
        return None
    if node.kwargs or len(node.args) != 2 or node.args[0] is node.args[1]:
        return None
    left, right = node.args
    other = right if left is value else left
    if not isinstance(other, fx.Node):
        return None
    changes = edited(node, modules) is other
    return None if changes and read_again(node, modules) else other


def _activation(
    node: fx.Node, value: fx.Node, modules: dict[str, nn.Module]
) -> tuple[str | None, FakeQuantActivation | None] | None:
    """(activation, quantizer) that ``node`` applies to ``value``; None if it is neither."""
    if not node.args or node.args[0] is not value or len(node.args) > 1:
        return None
    if node.op == "call_function":
        # F.relu(x, inplace=True): its result replaces x, which nothing else uses
        name = FUNCTIONS.get(node.target)
        return (name, None) if name and set(node.kwargs) <= {"inplace"} else None
    if node.op == "call_method":
        name = METHODS.get(str(node.target))
        return (name, None) if name and not node.kwargs else None
    if node.op != "call_module":
        return None
    module = modules[str(node.target)]
    if is_patched(module):
        return None
    if isinstance(module, FakeQuantActivation):
        return module.activation, module
    relu = MODULES.get(type(module))
    return (relu, None) if relu else None


def _chain(norm: fx.Node, modules: dict[str, nn.Module], ends: Container[fx.Node]) -> _Chain:
    """What follows ``norm``, up to a value in ``ends``, which is wanted as it is."""
    chain = _Chain(norm, norm)
    user = only_user(norm)
    if user is not None:
        residual = _residual(user, norm, modules)
        if residual is not None:
            chain.residual, chain.last = residual, user
            user = None if user in ends else only_user(user)
    total = chain.last
    found = None if user is None else _activation(user, total, modules)
    if user is not None and found is not None:
        chain.activation, chain.quantizer = found
        chain.last = user
    operands = [(norm.args[0], norm), (chain.residual, total)]
    moved = any(  # the operands are read at the end of the chain instead
        isinstance(value, fx.Node) and edited_between(value, read, chain.last, modules) for value, read in operands
    )
    return _Chain(norm, norm) if moved else chain


def _replace(merged: fx.GraphModule, chain: _Chain, module: nn.Module) -> fx.Node:
    graph, target = merged.graph, str(chain.norm.target)
    merged.set_submodule(target, module)
    operands = (chain.norm.args[0], *([chain.residual] if chain.residual is not None else []))
    with graph.inserting_after(chain.last):
        fused = graph.call_module(target, operands)
    chain.last.replace_all_uses_with(fused)
    while chain.last is not chain.norm:
        gone = chain.last
        chain.last = next(n for n in gone.all_input_nodes if n is not chain.residual)
        graph.erase_node(gone)
    graph.erase_node(chain.norm)
    return fused


def _split(merged: fx.GraphModule, fused: dict[fx.Node, Any]) -> None:
    """Give an output that is used in two places as two aliases: their gradients meet in the kernel.

    Only where neither place can change it in place.
    """
    modules = dict(merged.named_modules())
    for node, module in fused.items():
        users = list(node.users)
        if len(users) != 2 or not hasattr(module, "twice"):
            continue
        once = all(user.all_input_nodes.count(node) == 1 for user in users)
        pure = all(
            user in fused or (user.op == "call_module" and isinstance(modules[str(user.target)], _PURE))
            for user in users
        )
        if not (once and pure):
            continue
        module.twice = True
        for index, user in enumerate(users):
            with merged.graph.inserting_before(user):
                alias = merged.graph.call_function(operator.getitem, (node, index))
            user.replace_input_with(node, alias)


def _only_node(name: str, nodes: Sequence[fx.Node]) -> fx.Node:
    if len(nodes) != 1:
        raise CannotMergeError(f"watch: {name} is called {len(nodes)} times, or inside a module that is not followed")
    return nodes[0]


def _tap(merged: fx.GraphModule, node: fx.Node) -> Tap:
    tap = Tap()
    target = f"tap_{len(merged.graph.nodes)}"
    merged.add_module(target, tap)
    with merged.graph.inserting_after(node):
        merged.graph.call_module(target, (node,))
    return tap


def _can_take_along(module: nn.Module) -> bool:
    """Whether ``module`` is BatchNorm and nothing else, as torch or this package computes it."""
    own = isinstance(module, _BatchNorm) and is_own(module)
    return is_plain_batch_norm(module) or (own and not has_hooks(module))


@typed
def merge_batch_norms(model: nn.Module, fuse: Fuse, watch: Sequence[str] = ()) -> Merged:
    """``model`` as a traced network in which ``fuse(norm, activation, quantizer)`` replaces chains.

    A chain is a BatchNorm in eval mode, optionally a sum with its output, and optionally a ReLU,
    ReLU6 or activation quantizer, each used once. It ends where an output is watched. A BatchNorm
    with a forward of its own or with hooks stays as it is. The replacement is called with (input)
    or (input, residual) and shares whatever it takes from the originals; ``model`` is not edited.

    Args:
        model: in eval mode; all other modules are shared with the result.
        fuse: makes the replacement; None leaves that BatchNorm and what follows it alone.
        watch: names of modules whose outputs are wanted.

    Raises:
        CannotMergeError: torch.fx cannot follow the network, hooks would be lost, or a name of
            ``watch`` is called more than once.

    Example:
        >>> import hast_cuda as hc
        >>> from hast_cuda.merged import FusedBatchNorm2d
        >>> merged = merge_batch_norms(hc.load_teacher("digits"), FusedBatchNorm2d)
        >>> merged.model(torch.randn(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    for name, module in model.named_modules():
        if has_hooks(module) and not has_running_statistics(module):  # those are leaves that stay
            raise CannotMergeError(f"{name or 'the network'} has hooks, which would not be called")
    merged, outputs = trace(model)
    modules = dict(merged.named_modules())
    called = [n for n in merged.graph.nodes if n.op == "call_module"]
    calls = Counter(n.target for n in called)
    read = {str(n.target).rpartition(".")[0] for n in merged.graph.nodes if n.op == "get_attr"}
    alone = [n for n in called if calls[n.target] == 1 and unary(n) and n.target not in read]
    norms = [n for n in alone if _can_take_along(modules[n.target])]
    watched = {name: _only_node(name, outputs.get(name, [])) for name in watch}
    result = Merged(merged)
    fused: dict[fx.Node, Any] = {}
    for norm in norms:
        chain = _chain(norm, modules, watched.values())
        last = chain.last
        module = fuse(modules[norm.target], chain.activation, chain.quantizer)
        if module is None:
            continue
        result.watched |= {name: module for name, node in watched.items() if node is norm}
        node = _replace(merged, chain, module)
        watched = {name: node if found is last else found for name, found in watched.items()}
        fused[node] = module
    for name in watch:
        if name not in result.watched:
            result.watched[name] = _tap(merged, watched[name])
    _split(merged, fused)
    del merged.meta["inputs"]  # nodes: a deep copy would go through all that they are linked with, one within the other
    merged.delete_all_unused_submodules()
    merged.graph.lint()
    merged.recompile()
    merged.eval()
    return result


@typed
def warn_unmerged(reason: CannotMergeError) -> None:
    """Say that a loop runs with more launches than it could."""
    warn_caller(f"BatchNorm layers are not merged with what follows them, which costs time: {reason}", UserWarning)
