"""Networks looked at without a trace: in eval mode for a while, or as a frozen copy."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from hast_cuda.checks.values import check_values


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
