"""Networks looked at without a trace: in eval mode for a while, or as a frozen copy."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hast_cuda.checks.values import check_values

P = ParamSpec("P")
R = TypeVar("R")


def with_gradients(function: Callable[P, R]) -> Callable[P, R]:
    """``function``, which trains, also when an evaluation script calls it where gradients are off."""

    @functools.wraps(function)
    def trained(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.inference_mode(False), torch.enable_grad():
            return function(*args, **kwargs)

    return trained


def frozen_copy(teacher: nn.Module, device: torch.device) -> nn.Module:
    """The teacher in eval mode on ``device``, without gradients; the one given stays as it is."""
    check_values("teacher", teacher)
    return copied(teacher).to(device).eval().requires_grad_(False)


def copied(model: nn.Module) -> nn.Module:
    """A deep copy; ValueError, saying why, for a network that has none.

    What a forward pass left in attributes, with its graph, is copied without that.
    """
    left = [t for module in model.modules() for value in vars(module).values() for t in _with_graph(value)]
    try:
        return copy.deepcopy(model, {id(t): t.detach().clone() for t in left})
    except Exception as error:  # whatever the network's own attributes raise
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"the network cannot be copied ({type(error).__name__}: {reason}), and none is edited"
        ) from error


def _with_graph(value: Any) -> Iterator[Tensor]:
    """Tensors that something computed, in containers too."""
    if isinstance(value, Tensor):
        if value.grad_fn is not None:
            yield value
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _with_graph(item)


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Hooks that are there inside, and gone after, also after an error."""
    there = list(handles)
    try:
        yield
    finally:
        for handle in there:
            handle.remove()


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, every module's own mode again after, also after an error."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Whatever forward passes inside keep in attributes or count in buffers, it is as before after them.

    In dicts and lists among the attributes, too: a cache of what was computed would give it to the next pass.
    """
    attributes = [vars(module) for module in model.modules()]
    containers = [value for own in attributes for value in own.values() if isinstance(value, (dict, list))]
    before = [(v, list(v) if isinstance(v, list) else dict(v)) for v in (*attributes, *containers)]
    counted = [(b, None if b.is_inference() else b._version, b.clone()) for b in model.buffers() if not b.is_meta]
    try:
        yield
    finally:
        for values, content in before:
            if isinstance(values, list):
                values[:] = content
            else:
                values.clear()
                values.update(content)
        with torch.no_grad():
            for buffer, version, value in counted:
                if version is None or buffer._version != version:
                    buffer.copy_(value)
