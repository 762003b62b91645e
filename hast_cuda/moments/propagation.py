"""What every module of a network gets to see, from BatchNorm parameters alone."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hast_cuda.moments.distribution import Distribution, concatenate
from hast_cuda.moments.mapped_distribution import mapped
from hast_cuda.networks.statistics import has_running_statistics, is_plain_batch_norm, output_moments
from hast_cuda.networks.taps import Tap
from hast_cuda.networks.tracing import ADD, ADD_METHODS, trace
from hast_cuda.nn.activation import FakeQuantActivation
from hast_cuda.nn.around import around
from hast_cuda.ops.activations import FUNCTIONS, METHODS, MODULES

# Keep every channel's distribution, or nearly so: an average keeps the mean and has less spread.
_KEEPING_MODULES = (
    nn.Identity,
    Tap,
    nn.modules.dropout._DropoutNd,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.Upsample,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)
_KEEPING: tuple[Callable[..., Any] | str, ...] = (
    F.dropout,
    F.dropout2d,
    F.max_pool2d,
    F.avg_pool2d,
    F.adaptive_avg_pool2d,
    F.adaptive_max_pool2d,
    torch.max_pool2d,
    torch.clone,
    "contiguous",
    "clone",
    "detach",
)
_ELEMENTWISE_MODULES = (
    nn.LeakyReLU,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Softplus,
    nn.Hardtanh,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Sigmoid,
    nn.Tanh,
)
_ELEMENTWISE: tuple[Callable[..., Any] | str, ...] = (
    F.leaky_relu,
    F.elu,
    F.celu,
    F.selu,
    F.gelu,
    F.silu,
    F.mish,
    F.softplus,
    F.hardtanh,
    F.hardswish,
    F.hardsigmoid,
    F.sigmoid,
    F.tanh,
    torch.sigmoid,
    torch.tanh,
    "sigmoid",
    "tanh",
)
_RESHAPES = (torch.reshape, "view", "reshape")
_FLATTENS = (torch.flatten, "flatten")
_MEANS = (torch.mean, "mean")

Known = Distribution | None


def input_distributions(model: nn.Module) -> dict[str, list[Known]]:
    """Distribution of the first input of every module call, by module name; None where unknown.

    BatchNorm gives N(beta, gamma^2); a convolution or linear layer gives what it remembers
    (:func:`hast_cuda.networks.statistics.output_moments`); sums, activation functions, pooling,
    flattening, dropout, concatenation, slices of positions and channels of zeros are followed. The
    image is N(0, 1). CannotMergeError: torch.fx cannot follow the network. ValueError: a BatchNorm that does more.
    """
    traced, _ = trace(model)
    modules = dict(traced.named_modules())
    known: dict[fx.Node, Known] = {}
    inputs: dict[str, list[Known]] = {}
    for node in traced.graph.nodes:
        first = node.args[0] if node.args else None
        x = known.get(first) if isinstance(first, fx.Node) else None
        if node.op == "placeholder":
            image = Distribution.of(torch.zeros(1), torch.ones(1))
            known[node] = None if known else image  # further inputs are no images
        elif node.op == "call_module":
            name = str(node.target)
            inputs.setdefault(name, []).append(x)
            _refuse_more_than_batch_norm(name, modules[name])
            known[node] = _of_module(modules[name], x)
            if "output_quantizer" in around(modules[name]):  # of a layer, which is one node
                inputs.setdefault(f"{name}.output_quantizer", []).append(known[node])
        elif node.op in ("call_function", "call_method"):
            known[node] = _of_call(node, x, known)
    return inputs


def _elementwise(node: fx.Node, function: Callable[..., Tensor], x: Distribution) -> Known:
    """The function with the arguments that the network gives it."""
    rest: list[Any] = list(node.args[1:])
    given: dict[str, Any] = {k: v for k, v in node.kwargs.items() if k != "inplace"}
    if any(isinstance(value, fx.Node) for value in (*rest, *given.values())):
        return None
    return mapped(x, lambda values: function(values, *rest, **given))


def _of_module(module: nn.Module, x: Known) -> Known:
    if is_plain_batch_norm(module):
        return _normalized(module)
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        moments = output_moments(module)
        return None if moments is None else Distribution.of(*moments)
    if x is None:
        return None
    if isinstance(module, FakeQuantActivation):
        return x.activated(module.activation)
    if type(module) in MODULES:
        return x.activated(MODULES[type(module)])
    if type(module) in _ELEMENTWISE_MODULES:
        return mapped(x, module)
    flat = isinstance(module, nn.Flatten) and module.start_dim == 1
    return x if flat or isinstance(module, _KEEPING_MODULES) else None


def _refuse_more_than_batch_norm(name: str, module: nn.Module) -> None:
    """N(beta, gamma^2) would be what its BatchNorm gives, not what comes out."""
    if has_running_statistics(module) and not is_plain_batch_norm(module):
        raise ValueError(
            f"layer {name!r} ({type(module).__name__}) has running statistics but a forward or hooks of its own, "
            "which may do more than BatchNorm (an activation, say): write it as nn.BatchNorm2d and what follows "
            'it, or calibrate with images (hast_cuda.calibrate; in a recipe finetune.calibration="generator") and '
            "leave bias correction out"
        )


def _normalized(norm: _BatchNorm) -> Distribution:
    """N(beta, gamma^2)."""
    mean = norm.running_mean
    assert isinstance(mean, Tensor)
    gamma: Tensor | None = norm.weight  # None without affine parameters
    beta: Tensor | None = norm.bias
    return Distribution.of(
        torch.zeros_like(mean) if beta is None else beta, torch.ones_like(mean) if gamma is None else gamma
    )


def _of_call(node: fx.Node, x: Known, known: dict[fx.Node, Known]) -> Known:
    """Of a function or, where the target is a text, a method."""
    target: Any = node.target
    if target is torch.cat:
        return _concatenation(node, known)
    if x is None:
        return None
    if target in ADD or target in ADD_METHODS:
        return _sum(node, x, known)
    if target in FUNCTIONS or target in METHODS:
        return x.activated(FUNCTIONS.get(target) or METHODS[target])
    if target in _ELEMENTWISE:
        return _elementwise(node, getattr(torch, target) if isinstance(target, str) else target, x)
    if target is F.pad:
        return _padded(node, x)
    if target is operator.getitem:
        return x if _every_channel(node.args[1]) else None
    return x if target in _KEEPING or _keeps_channels(node) else None


def _sum(node: fx.Node, x: Distribution, known: dict[fx.Node, Known]) -> Known:
    other = node.args[1] if len(node.args) == 2 and not node.kwargs else None
    y = known.get(other) if isinstance(other, fx.Node) else None
    return None if y is None else x.plus(y)


def _concatenation(node: fx.Node, known: dict[fx.Node, Known]) -> Known:
    """Of maps along their channels."""
    parts = node.args[0] if node.args else None
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if dim != 1 or not isinstance(parts, (list, tuple)):
        return None
    found = [known.get(part) for part in parts if isinstance(part, fx.Node)]
    whole = [part for part in found if part is not None]
    return concatenate(whole) if whole and len(whole) == len(parts) else None


def _padded(node: fx.Node, x: Distribution) -> Known:
    """Channels of zeros around those of a map, as in shortcuts without parameters."""
    given = dict(zip(("input", "pad", "mode", "value"), node.args, strict=False)) | node.kwargs
    pad: Any = given["pad"]
    constant = given.get("mode", "constant") == "constant" and not given.get("value")
    if not constant or len(pad) != 6 or any(pad[:4]) or min(pad[4:]) < 0:
        return None
    sides = [torch.zeros(count, dtype=torch.float64) for count in pad[4:]]
    before, after = (Distribution(side, side, support=(0.0, 0.0)) for side in sides)
    return concatenate([part for part in (before, x, after) if len(part.mean)])


def _every_channel(index: Any) -> bool:
    """Whether ``[:, :, ...]`` with slices of positions, whose values have the same distribution."""
    whole = slice(None)
    slices = isinstance(index, tuple) and all(isinstance(part, slice) for part in index)
    return bool(slices) and list(index[:2]) == [whole, whole]


def _keeps_channels(node: fx.Node) -> bool:
    """Whether a mean is over positions, or a new shape keeps the channels' order."""
    target: Any = node.target
    rest: list[Any] = list(node.args[1:])
    if target in _MEANS:
        dim: Any = rest[0] if rest else node.kwargs.get("dim")
        dims = [dim] if isinstance(dim, int) else dim
        return isinstance(dims, (list, tuple)) and bool(dims) and set(dims) <= {2, 3, -1, -2}
    if target in _FLATTENS:
        start: Any = rest[0] if rest else node.kwargs.get("start_dim")
        return bool(start == 1)
    if target in _RESHAPES:
        shape = list(rest[0]) if len(rest) == 1 and isinstance(rest[0], (list, tuple)) else rest
        return len(shape) == 2 and bool(shape[1] == -1)  # (N, -1)
    return False
