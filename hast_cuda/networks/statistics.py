"""Statistics that layers have stored: which normalise with them, whether those can be used, what folding left."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hast_cuda.checks.typed import typed

_FORWARDS = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_CALLED = ("forward", "__call__", "_conv_forward")
_PLAIN = ("timm.layers.linear.Linear",)  # whose forward differs where it is scripted, and nowhere else
LARGEST_STATISTIC = 1e18  # Eq. 3 squares the distance to it in float32, and sums the squares


@typed
def has_running_statistics(module: nn.Module) -> bool:
    """True for every layer that normalises with statistics it has stored.

    Example:
        >>> has_running_statistics(torch.nn.BatchNorm2d(2)), has_running_statistics(torch.nn.ReLU())
        (True, False)
    """
    return all(getattr(module, n, None) is not None for n in ("running_mean", "running_var"))


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of ``module`` runs anything beside its forward and its backward."""
    return any(getattr(module, hooks) for hooks in _HOOKS)


def is_patched(module: nn.Module) -> bool:
    """Whether this one object has a forward that its class does not know."""
    return "forward" in vars(module)


def has_own_forward(layer: nn.Conv2d | nn.Linear) -> bool:
    """Whether a call of ``layer`` is anything else than that of its plain class."""
    kind = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.Linear
    if f"{type(layer).__module__}.{type(layer).__qualname__}" in _PLAIN:
        return is_patched(layer)
    return is_patched(layer) or any(
        getattr(type(layer), n) is not getattr(kind, n) for n in _CALLED if hasattr(kind, n)
    )


def is_plain_batch_norm(module: nn.Module) -> TypeGuard[_BatchNorm]:
    """Whether a call in eval mode is BatchNorm with stored statistics and nothing else.

    A subclass or an object with a forward of its own may do more, and so may a hook.
    """
    known = isinstance(module, _BatchNorm) and type(module).forward in _FORWARDS
    known = known and type(module).__call__ is nn.Module.__call__
    return known and has_running_statistics(module) and not is_patched(module) and not has_hooks(module)


@typed
def require_batch_norm(model: nn.Module) -> None:
    """ValueError unless some layer of ``model`` has running statistics, and all can be matched.

    A variance of 0 can: what it is divided by is ``sqrt(0 + eps)``.

    Example:
        >>> import hast_cuda as hc
        >>> require_batch_norm(hc.load_teacher("digits"))  # it has what is needed
    """
    layers = {n: m for n, m in model.named_modules() if has_running_statistics(m)}
    if not layers:
        raise ValueError(
            "the network has no BatchNorm layer with running statistics, and synthesis matches "
            "images to those; use a network with BatchNorm (not yet folded into its "
            "convolutions) or quantize with images of your own"
        )
    for name, layer in layers.items():
        _check(f"running_mean of {name!r}", layer.running_mean, -LARGEST_STATISTIC)
        _check(f"running_var of {name!r}", layer.running_var, 0.0)


def require_trained(model: nn.Module) -> None:
    """ValueError if all BatchNorm layers are as they were made: the network's weights are random."""
    layers = [m for m in model.modules() if has_running_statistics(m)]
    if layers and all(_untouched(layer) for layer in layers):
        raise ValueError(
            "every BatchNorm layer of the network has mean 0, variance 1 and has seen no batch: its weights are "
            "random. Load those that were trained, e.g. hast_cuda.load_teacher(network, weights=FILE)"
        )


def _untouched(layer: nn.Module) -> bool:
    mean, variance, count = (getattr(layer, n, None) for n in ("running_mean", "running_var", "num_batches_tracked"))
    if not isinstance(mean, Tensor) or not isinstance(variance, Tensor):
        return False
    counted = isinstance(count, Tensor) and bool(count)
    return not counted and not bool(mean.any()) and bool((variance == 1).all())


def require_float32(model: nn.Module) -> None:
    """ValueError, naming one that is not, unless all floating-point parameters and buffers are float32."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if (tensor.is_floating_point() or tensor.is_complex()) and tensor.dtype != torch.float32:
            raise ValueError(
                f"{name!r} of the network is {tensor.dtype}; runs compute in torch.float32 (Execution(precision=...) "
                "makes them faster): give network.float()"
            )


def _check(what: str, found: object, lowest: float) -> None:
    """ValueError unless all values are from ``lowest`` to the largest that can be squared."""
    if not isinstance(found, Tensor) or found.is_meta:
        return
    wrong = ~((found >= lowest) & (found <= LARGEST_STATISTIC))  # NaN is wrong too
    if bool(wrong.any()):
        channel = int(wrong.flatten().nonzero()[0])
        raise ValueError(
            f"{what} is {float(found.flatten()[channel])} in channel {channel}; images are matched "
            f"to it, so it must lie between {lowest} and {LARGEST_STATISTIC}: check the weights "
            "that the network was loaded from"
        )


def require_finite_weights(name: str, weight: Tensor, largest: float) -> None:
    """ValueError, naming the layer, unless all weights lie in [-largest, largest]."""
    if weight.is_meta or not weight.numel():
        return
    reach = torch.linalg.vector_norm(weight.detach(), ord=torch.inf)
    if not bool(reach <= largest):
        raise ValueError(
            f"the weight of layer {name!r} contains NaN, infinity or numbers beyond {largest}: "
            "check the weights that the network was loaded from"
        )


def set_output_moments(layer: nn.Module, mean: Tensor, std: Tensor) -> None:
    """Remember that output channel c of ``layer`` is N(mean[c], std[c]^2) on natural images.

    [C] each; buffers that follow the layer's device and copies but are not in its state dict.
    """
    layer.register_buffer("output_mean", mean.detach(), persistent=False)
    layer.register_buffer("output_std", std.detach(), persistent=False)


def output_moments(layer: nn.Module) -> tuple[Tensor, Tensor] | None:
    """(mean, std), [C] each, that ``layer`` remembers, or None."""
    mean, std = getattr(layer, "output_mean", None), getattr(layer, "output_std", None)
    return (mean, std) if isinstance(mean, Tensor) and isinstance(std, Tensor) else None


def share_output_moments(source: nn.Module, target: nn.Module) -> None:
    """Let ``target`` remember what ``source`` does."""
    found = output_moments(source)
    if found is not None:
        set_output_moments(target, *found)
