"""The first and the last layer of a network, which many settings keep at more bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hast_cuda.loops.modes import eval_mode


@torch.no_grad()
def end_layers(model: nn.Module, size: tuple[int, int, int]) -> tuple[str, str]:
    """Names of the convolutions or linear layers that are called first and last.

    Args:
        model: its forward is called once, in eval mode, on zeros.
        size: (C, H, W) of an image.

    Raises:
        ValueError: no such layer is called.

    Example:
        >>> import hast_cuda as hc
        >>> end_layers(hc.load_teacher("digits"), (1, 8, 8))
        ('stem.0', 'output')
    """
    called: list[str] = []

    def note(name: str) -> Any:
        return lambda *_: called.append(name)

    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    handles = [module.register_forward_pre_hook(note(name)) for name, module in layers]
    try:
        with eval_mode(model):
            device = next((p.device for p in model.parameters()), None)
            model(torch.zeros(1, *size, device=device))
    finally:
        for handle in handles:
            handle.remove()
    if not called:
        raise ValueError("the network calls no Conv2d or Linear layer")
    return called[0], called[-1]
