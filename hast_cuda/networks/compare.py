"""Where two networks that should be equal begin to differ."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.loops.modes import copied, hooked
from hast_cuda.networks.outputs import output_tensors
from hast_cuda.networks.statistics import has_running_statistics

TOLERANCE = 1e-3  # of a map's largest value: far above float32's rounding, far below any operation that is lost


def apart(exact: Any, found: Any) -> float:
    """Largest difference of two outputs, tensor by tensor, see :func:`_apart`; infinite where one lacks a tensor."""
    ours, others = output_tensors(exact), output_tensors(found)
    if ours.keys() != others.keys():
        return float("inf")
    return max(_apart(x, others[place]) for place, x in ours.items())


def distance(exact: nn.Module, found: nn.Module, x: Tensor) -> float:
    """Largest difference of what two networks give for ``x``, see :func:`apart`; of more than TOLERANCE, in float64.

    Attention, and whatever else enlarges small differences, can make of float32's rounding more than that; an
    operation that is lost is lost in float64, too. Of networks that compute with float32 of their own it stays, as
    does an infinite one: what float32 cannot hold is no rounding.
    """
    seen = apart(exact(x.clone()), found(x.clone()))
    if seen <= TOLERANCE or math.isinf(seen):
        return seen
    try:
        return apart(in_float64(exact)(x.double()), in_float64(found)(x.double()))
    except (RuntimeError, TypeError):  # of operands that have other types
        return seen


def in_float64(network: nn.Module) -> nn.Module:
    """A copy whose parameters, buffers and tensors that are attributes are float64 where they are floating."""
    copy = copied(network).double()
    for module in copy.modules():
        own = vars(module)
        own.update({n: t.double() for n, t in own.items() if isinstance(t, Tensor) and t.is_floating_point()})
    return copy


def _apart(exact: Tensor, found: Tensor) -> float:
    """Largest difference, in units of the largest value of ``exact``; infinite where the shapes differ."""
    if exact.shape != found.shape:
        return float("inf")
    if not exact.numel():
        return 0.0
    scale = max(float(exact.abs().max()), 1e-6)
    differences = (exact.double() - found.double()).abs()
    return float(torch.where(differences.isnan(), torch.inf, differences).max()) / scale


def where_apart(exact: nn.Module, found: nn.Module, x: Tensor) -> str:
    """In words, the first layer of ``exact`` whose output ``found`` gives otherwise, both in eval mode.

    Layers are compared under their names; those that ``found`` lacks, as it has other modules in their place,
    are between the two that are named.
    """
    ours, others = _maps(exact, x), _maps(found, x)
    before = "the images"
    for name, maps in ours.items():
        if name not in others:
            continue
        module, other = exact.get_submodule(name), found.get_submodule(name)
        if has_running_statistics(module) and type(module) is not type(other):
            continue  # a merged one, which does what follows it, too
        pairs = zip(maps, others[name], strict=False)
        if len(maps) != len(others[name]) or any(_apart(a, b) > TOLERANCE for a, b in pairs):
            return f"at layer {name!r} ({type(module).__name__}); up to {before} all is equal"
        before = repr(name)
    return f"behind {before}"


def _maps(model: nn.Module, x: Tensor) -> dict[str, list[Tensor]]:
    """Outputs of all calls of all modules, by name, in the order in which they ended."""
    found: dict[str, list[Tensor]] = {}

    def note(name: str) -> Any:
        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                found.setdefault(name, []).append(output.detach().clone())  # what follows may edit it

        return keep

    handles = [module.register_forward_hook(note(name)) for name, module in model.named_modules() if name]
    with hooked(handles), torch.no_grad():
        model(x.clone())
    return found
