"""Ops with a gradient, called without autograd's part where nobody can ask for one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.compiler import is_compiling


class _Nobody:
    """In place of a Function's context: it keeps nothing, and an attempt to write to it is an error."""

    __slots__ = ()
    needs_input_grad = ()


_NOBODY = _Nobody()


def once(backward: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """``backward`` of a Function, whose gradients cannot be differentiated again: an error where that is tried.

    Unlike torch's ``once_differentiable`` also under a plain sum, whose gradient has no graph of its own: the
    gradients depend on what was kept of the forward pass, too.
    """

    @functools.wraps(backward)
    def stopped(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        if is_compiling() or not torch.is_grad_enabled():
            return backward(ctx, *grads)
        with torch.no_grad():
            found = backward(ctx, *grads)
        name = type(ctx).__name__.removesuffix("Backward").lstrip("_")
        stop: Any = torch._C._functions.DelayedError(  # type: ignore[attr-defined,unused-ignore]
            f"the gradient of hast_cuda's {name} cannot be differentiated again, it is differentiable once: use the "
            "eager twin in hast_cuda.ops.reference; for a quantized network hast_cuda.analysis.twice_differentiable",
            1,
        )
        # no tensor of theirs that is given on to others as well: its gradient is right
        return tuple(stop(g.detach().requires_grad_()) if isinstance(g, Tensor) else g for g in found)

    return stopped


def apply(function: type[Function], *arguments: Any) -> Any:
    """``function.apply``; where no gradient is recorded its ``forward`` alone, without what autograd does around it.

    ``forward`` returns before it writes to its context if True is not in ``needs_input_grad``.
    Transforms of torch.func, forward-mode differentiation and torch.compile get the Function.
    """
    if is_compiling() or forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        return function.apply(*arguments)
    if torch.is_grad_enabled():
        for argument in arguments:
            if isinstance(argument, Tensor) and argument.requires_grad:
                return function.apply(*arguments)
    return function.forward(_NOBODY, *arguments)


def scaled(gradient: Tensor, upstream: Tensor, dtype: torch.dtype) -> Tensor:
    """``gradient * upstream`` (0-d) rounded once to ``dtype``, in one launch.

    The saved gradient of half-precision logits is float32: before it is scaled most of it would be
    below the smallest float16.
    """
    if gradient.dtype == dtype:
        return gradient * upstream
    return torch.mul(gradient, upstream, out=torch.empty_like(gradient, dtype=dtype))
