"""Find BatchNorm, residual sum and activation in a network's graph and make one module of them."""

from __future__ import annotations

import operator
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hast_cuda.checks.typed import typed
from hast_cuda.networks.statistics import has_running_statistics
from hast_cuda.networks.taps import Tap
from hast_cuda.networks.tracing import (
    ADD,
    ADD_METHODS,
    RELU_FUNCTIONS,
    RELU_METHODS,
    RELU_MODULES,
    CannotMergeError,
    trace,
)
from hast_cuda.nn.activation import FakeQuantActivation

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


def _only_user(node: fx.Node) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def _residual(node: fx.Node, value: fx.Node) -> fx.Node | None:
    """What ``node`` adds to ``value``, its first operand; None if it is no such sum."""
    if node.op == "call_function":
        if node.target not in ADD:
            return None
    elif node.op != "call_method" or node.target not in ADD_METHODS:
        return None
    if node.kwargs or len(node.args) != 2 or node.args[0] is not value:
        return None
    other = node.args[1]
    return other if isinstance(other, fx.Node) and other is not value else None


def _activation(
    node: fx.Node, value: fx.Node, modules: dict[str, nn.Module]
) -> tuple[str | None, FakeQuantActivation | None] | None:
    """(activation, quantizer) that ``node`` applies to ``value``; None if it is neither."""
    if not node.args or node.args[0] is not value or len(node.args) > 1:
        return None
    if node.op == "call_function":
        # F.relu(x, inplace=True): its result replaces x, which nothing else uses
        name = RELU_FUNCTIONS.get(cast("Any", node.target))
        return (name, None) if name and set(node.kwargs) <= {"inplace"} else None
    if node.op == "call_method":
        name = RELU_METHODS.get(str(node.target))
        return (name, None) if name and not node.kwargs else None
    if node.op != "call_module":
        return None
    module = modules[str(node.target)]
    if isinstance(module, FakeQuantActivation):
        return module.activation, module
    relu = RELU_MODULES.get(cast("Any", type(module)))
    return (relu, None) if relu else None


def _chain(norm: fx.Node, modules: dict[str, nn.Module]) -> _Chain:
    chain = _Chain(norm, norm)
    user = _only_user(norm)
    if user is not None:
        residual = _residual(user, norm)
        if residual is not None:
            chain.residual, chain.last = residual, user
            user = _only_user(user)
    found = None if user is None else _activation(user, chain.last, modules)
    if user is not None and found is not None:
        chain.activation, chain.quantizer = found
        chain.last = user
    return chain


def _check_hooks(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
            if has_running_statistics(module) and not isinstance(module, _BatchNorm):
                continue  # a leaf that stays
            message = f"{name or 'the network'} has hooks, which would not be called"
            raise CannotMergeError(message)


def _replace(merged: fx.GraphModule, chain: _Chain, module: nn.Module) -> fx.Node:
    graph, target = merged.graph, str(chain.norm.target)
    merged.set_submodule(target, module)
    operands = (chain.norm.args[0], *([chain.residual] if chain.residual is not None else []))
    with graph.inserting_after(chain.last):
        fused = graph.call_module(target, operands)
    chain.last.replace_all_uses_with(fused)
    node: fx.Node = chain.last
    while node is not chain.norm:
        before = cast("fx.Node", node.args[0])
        graph.erase_node(node)
        node = before
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
            user in fused
            or (user.op == "call_module" and isinstance(modules[str(user.target)], _PURE))
            for user in users
        )
        if not (once and pure):
            continue
        module.twice = True
        for index, user in enumerate(users):
            with merged.graph.inserting_before(user):
                alias = merged.graph.call_function(operator.getitem, (node, index))
            user.replace_input_with(node, alias)


def _tap(merged: fx.GraphModule, name: str, nodes: Sequence[fx.Node]) -> Tap:
    if len(nodes) != 1:
        message = (
            f"watch: {name} is called {len(nodes)} times, or inside a module that is not followed"
        )
        raise CannotMergeError(message)
    tap = Tap()
    target = f"tap_{len(merged.graph.nodes)}"
    merged.add_module(target, tap)
    with merged.graph.inserting_after(nodes[0]):
        merged.graph.call_module(target, (nodes[0],))
    return tap


@typed
def merge_batch_norms(model: nn.Module, fuse: Fuse, watch: Sequence[str] = ()) -> Merged:
    """``model`` as a traced network in which ``fuse(norm, activation, quantizer)`` replaces chains.

    A chain is a BatchNorm in eval mode, optionally a sum with its output as first operand, and
    optionally a ReLU, ReLU6 or activation quantizer, each used once. The replacement is called with
    (input) or (input, residual) and shares whatever it takes from the originals; ``model`` is not
    edited.

    Args:
        model: in eval mode; all other modules are shared with the result.
        fuse: makes the replacement; None leaves that BatchNorm and what follows it alone.
        watch: names of modules whose outputs are wanted.

    Raises:
        CannotMergeError: torch.fx cannot follow the network, hooks would be lost, or a name of
            ``watch`` is called more than once.
    """
    _check_hooks(model)
    merged, outputs = trace(model)
    modules = dict(merged.named_modules())
    calls = Counter(n.target for n in merged.graph.nodes if n.op == "call_module")
    norms = [
        n
        for n in merged.graph.nodes
        if n.op == "call_module" and calls[n.target] == 1 and len(n.args) == 1 and not n.kwargs
        and isinstance(modules[n.target], _BatchNorm)
        and has_running_statistics(modules[n.target])
    ]  # fmt: skip
    names = {nodes[0]: name for name in watch if len(nodes := outputs.get(name, [])) == 1}
    result = Merged(merged)
    fused: dict[fx.Node, Any] = {}
    for norm in norms:
        chain = _chain(norm, modules)
        module = fuse(modules[str(norm.target)], chain.activation, chain.quantizer)
        if module is None:
            continue
        if norm in names:
            result.watched[names.pop(norm)] = module
        fused[_replace(merged, chain, module)] = module
    for name in watch:
        if name not in result.watched:
            result.watched[name] = _tap(merged, name, outputs.get(name, []))
    _split(merged, fused)
    merged.delete_all_unused_submodules()
    merged.graph.lint()
    merged.recompile()
    merged.eval()
    return result


@typed
def warn_unmerged(reason: CannotMergeError) -> None:
    """Say that a loop runs with more launches than it could."""
    warnings.warn(
        f"BatchNorm layers are not merged with what follows them, which costs time: {reason}",
        UserWarning,
        stacklevel=4,
    )
