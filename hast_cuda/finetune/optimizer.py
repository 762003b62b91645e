"""The optimizer of the student."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hast_cuda.finetune.config import FinetuneConfig
from hast_cuda.finetune.inundation import InundatedSGD

SECOND_MOMENTUM = 0.999


def make_optimizer(
    config: FinetuneConfig, parameters: list[nn.Parameter], student: nn.Module, rate: Tensor
) -> torch.optim.Optimizer:
    """What ``config`` asks for; reads the 0-d ``rate`` anew at every step, without the host."""
    if config.flip_fraction:
        return InundatedSGD(
            parameters, student, lr=rate, momentum=config.momentum,
            weight_decay=config.weight_decay, goal=config.flip_goal(0),
            largest_step=config.largest_step,
        )  # fmt: skip
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters, lr=rate, betas=(config.momentum, SECOND_MOMENTUM),
            weight_decay=config.weight_decay, fused=True, capturable=rate.is_cuda,
        )  # fmt: skip
    return torch.optim.SGD(
        parameters, lr=rate, momentum=config.momentum, nesterov=config.momentum > 0,
        weight_decay=config.weight_decay, fused=True,
    )  # fmt: skip
