"""Networks looked at without a trace: in eval mode for a while, or as a frozen copy."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch
from torch import nn

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
    return copy.deepcopy(teacher).to(device).eval().requires_grad_(False)


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
