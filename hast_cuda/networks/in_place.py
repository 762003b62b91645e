"""Which operations of a traced network edit a tensor, and who would notice if they did not."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from hast_cuda.networks.statistics import has_running_statistics
from hast_cuda.networks.taps import Tap
from hast_cuda.networks.tracing import ASSIGNMENTS, CannotMergeError, is_own, trace
from hast_cuda.ops.activations import MODULES

Modules = Mapping[str, nn.Module]
# Their outputs are new tensors; those of all others may be views of an input, or the input itself.
_NEW_MODULES = (nn.Conv2d, nn.Linear, nn.ReLU, nn.ReLU6, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_NEW_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    torch.add,
    torch.mul,
    torch.cat,
    torch.relu,
    torch.sigmoid,
    F.relu,
    F.relu6,
    F.interpolate,
    F.max_pool2d,
    F.avg_pool2d,
    F.adaptive_avg_pool2d,
)
_NEW_METHODS = ("add", "mul", "relu", "sigmoid", "mean", "clone")


def edited(node: fx.Node, modules: Modules) -> fx.Node | None:
    """The value that ``node`` changes in place."""
    target: Any = node.target
    if node.op == "call_module":
        edits = getattr(modules[target], "inplace", False)
    elif node.op == "call_method":
        edits = target.endswith("_")
    elif node.op == "call_function":
        edits = (
            target in ASSIGNMENTS
            or getattr(target, "__name__", "").endswith("_")
            or node.kwargs.get("inplace")
            or (target in (F.relu, F.relu6) and True in node.args)
        )
    else:
        return None
    first = node.args[0] if node.args else node.kwargs.get("input")
    return first if edits and isinstance(first, fx.Node) else None


def _shared_with(node: fx.Node, modules: Modules) -> list[fx.Node]:
    """Inputs of ``node`` whose memory its value may be."""
    value = edited(node, modules)
    if value is not None:
        return [value]
    target: Any = node.target
    if node.op == "call_module":
        module = modules[target]
        own = is_own(module) and not isinstance(module, Tap)
        new = own or isinstance(module, _NEW_MODULES) or has_running_statistics(module)
    elif node.op == "call_method":
        new = target in _NEW_METHODS
    else:
        new = target in _NEW_FUNCTIONS
    return [] if new else node.all_input_nodes


def _after(node: fx.Node, end: fx.Node | None = None) -> Iterator[fx.Node]:
    """Nodes behind ``node``, up to ``end``."""
    node = node.next
    while node is not end and node.op != "root":
        yield node
        node = node.next


def _memory(value: fx.Node, modules: Modules) -> set[fx.Node]:
    """``value`` and the values before it that may be the same memory."""
    found, waiting = {value}, [value]
    while waiting:
        new = set(_shared_with(waiting.pop(), modules)) - found
        found |= new
        waiting += new
    return found


def read_again(editor: fx.Node, modules: Modules) -> bool:
    """Whether what ``editor`` changes in place is read later, other than as its result.

    True also where that cannot be excluded, and for what the caller or the network keeps.
    """
    value = edited(editor, modules)
    assert value is not None
    memory = _memory(value, modules)
    if any(node.op in ("placeholder", "get_attr") for node in memory):
        return True
    later = set(_after(editor))
    waiting = list(memory)
    while waiting:
        node = waiting.pop()
        for user in node.users:
            if user in later:
                return True
            if user is not editor and user not in memory and node in _shared_with(user, modules):
                memory.add(user)
                waiting.append(user)
    return False


def edited_between(value: fx.Node, first: fx.Node, last: fx.Node, modules: Modules) -> bool:
    """Whether a node behind ``first`` and before ``last`` changes ``value``."""
    changed = [v for n in _after(first, last) if (v := edited(n, modules)) is not None]
    if not changed:
        return False
    memory = _memory(value, modules)
    return any(memory & _memory(v, modules) for v in changed)


def activations_read_again(model: nn.Module) -> set[nn.Module]:
    """Modules ``nn.ReLU(inplace=True)``, or ReLU6, whose input somebody may read after them.

    All that torch.fx does not reach, since nothing is known of those.
    """
    in_place = {m for m in model.modules() if type(m) in MODULES and m.inplace}
    if not in_place:
        return set()
    try:
        traced, _ = trace(model)
    except CannotMergeError:
        return in_place
    modules = dict(traced.named_modules())
    calls: dict[nn.Module, list[fx.Node]] = {}
    for node in traced.graph.nodes:
        if node.op == "call_module":
            calls.setdefault(modules[str(node.target)], []).append(node)
    return {m for m in in_place if m not in calls or any(read_again(node, modules) for node in calls[m])}
