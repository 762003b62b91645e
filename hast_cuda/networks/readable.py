"""Which networks can be read and copied at all: layers by type, and nothing that a copy would share."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.optim.swa_utils import AveragedModel

from hast_cuda.networks.statistics import has_running_statistics

_WRAPPERS: dict[str, tuple[str, str]] = {  # by names: importing torch.compile's takes seconds
    "OptimizedModule": ("wrapped by torch.compile", "._orig_mod"),
    "FullyShardedDataParallel": ("wrapped by FullyShardedDataParallel", ".module"),
}
_REGISTERED = ("_parameters", "_buffers", "_modules", "_compiled_call_impl")  # no copy has the last
_WEIGHTS = ("weight", "bias")
_FOREIGN = ("torch.ao.nn.", "torch.nn.quantized", "torch.nn.qat", "torch.nn.intrinsic", "torchao.")
_CONTAINERS = (list, tuple, set, frozenset, deque)


def require_readable(model: nn.Module) -> None:
    """ValueError, naming the layer, unless layers are found by type and a copy of ``model`` is whole.

    Refused are scripted, exported, compiled and wrapped networks, those that torch has quantized, weights that
    are computed from others and kept (weight_norm, pruning), and functions and unregistered layers from which
    a copy would still reach the layers of the original.
    """
    registered = set(model.modules())
    for name, module in model.named_modules():
        place = f"layer {name!r}" if name else "the network"
        _refuse_kind(place, module, name)
        _refuse_computed(place, module)
        for key, value in vars(module).items():
            if key in _REGISTERED:
                continue
            if key in _WEIGHTS and isinstance(value, Tensor) and value.grad_fn is not None:
                raise ValueError(
                    f"the {key!r} of {place} ({type(module).__name__}) is computed from other parameters "
                    "(weight_norm, spectral_norm, pruning): make it plain first, e.g. with "
                    "torch.nn.utils.remove_weight_norm or torch.nn.utils.prune.remove"
                )
            for found in _kept(value, set()):
                _refuse_reference(f"{place} ({type(module).__name__}), in {key!r}", found, registered)


def _refuse_kind(place: str, module: nn.Module, name: str) -> None:
    """ValueError for what is not the network that somebody wrote."""
    kind, where = type(module), f"network.{name}" if name else "network"
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError(
            f"{place} was made by torch.jit (scripted or traced), and its layers cannot be replaced: give the "
            "network that it was made from"
        )
    known = _WRAPPERS.get(kind.__name__)
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)):
        known = f"wrapped by {kind.__name__}", ".module"
    if known is not None:
        raise ValueError(f"{place} is {known[0]}: give what is inside, {where}{known[1]}")
    if kind.__module__.startswith(_FOREIGN):
        raise ValueError(
            f"{place} ({kind.__module__}.{kind.__name__}) is quantized by torch already: give the float network"
        )
    if isinstance(module, fx.GraphModule):
        exported = [n for n in module.graph.nodes if isinstance(n.target, torch._ops.OpOverload)]
        if exported:
            raise ValueError(
                f"{place} was exported (torch.export): it calls {exported[0].target} and has no layers; give the "
                "network that it was made from"
            )


def _refuse_computed(place: str, module: nn.Module) -> None:
    """ValueError for a layer without weights yet, and for BatchNorm and biases that others give."""
    if any(nn.parameter.is_lazy(p) for p in module.parameters(recurse=False)):
        raise ValueError(f"{place} ({type(module).__name__}) has no weights yet: run a forward pass, and load them")
    computed = sorted(getattr(module, "parametrizations", {}))
    if computed and (has_running_statistics(module) or "bias" in computed):
        raise ValueError(
            f"the {computed[0]} of {place} ({type(module).__name__}) is computed from other parameters: make it plain "
            "first, with torch.nn.utils.parametrize.remove_parametrizations"
        )


def _kept(value: Any, seen: set[int]) -> Iterator[Any]:
    """What an attribute holds, through containers."""
    if id(value) in seen:
        return
    if isinstance(value, (*_CONTAINERS, dict)):
        seen.add(id(value))
        for item in list(value.values()) if isinstance(value, dict) else list(value):
            yield from _kept(item, seen)
    elif isinstance(value, functools.partial):
        yield from _kept([value.func, value.args, value.keywords], seen)
    elif isinstance(value, (nn.Module, FunctionType)):
        yield value
    elif isinstance(getattr(value, "__func__", None), FunctionType):
        yield value.__func__  # the copy of a method is one of the copied object


def _refuse_reference(place: str, found: Any, registered: set[nn.Module]) -> None:
    """ValueError for an unregistered layer with weights, and for a function that holds a layer."""
    if isinstance(found, nn.Module):
        if found not in registered and any(True for _ in found.parameters()):
            raise ValueError(
                f"{place}: a {type(found).__name__} with weights that is not registered, so that nobody finds it: "
                "keep layers in nn.ModuleList or nn.ModuleDict, or as attributes"
            )
        return
    for held in _held(found, set()):
        raise ValueError(
            f"{place}: the function {found.__qualname__!r} holds a {held}, and in a copy of the network it would still "
            "call that of the original: make it a method of a module, which takes its layers from self"
        )


def _held(function: FunctionType, seen: set[int]) -> Iterator[str]:
    """Kinds of the modules and parameters that a function carries with it."""
    if id(function) in seen:
        return
    seen.add(id(function))
    values: list[Any] = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
    for value in values:
        owner = getattr(value, "__self__", None)  # of a bound method, such as the forward that was there before
        for candidate in (value, owner):
            if isinstance(candidate, (nn.Module, nn.Parameter)):
                yield type(candidate).__name__
        for inner in _kept(value, set()):
            if isinstance(inner, nn.Module):
                yield type(inner).__name__
            else:
                yield from _held(inner, seen)
