"""Ops with a gradient, called without autograd's part where nobody can ask for one."""

from __future__ import annotations

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
