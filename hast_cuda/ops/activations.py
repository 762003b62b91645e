"""The activations that the kernels can fuse: one table of all that is known about each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hast_cuda.checks import tensors as _checks
from hast_cuda.ops import codes


@dataclass(frozen=True)
class FusedActivation:
    """An activation that clamps to [0, ``upper``], and how networks write it."""

    name: str
    code: codes.Activation
    """Of the compiled core, see csrc/common/activation.h."""
    upper: float
    module: type[nn.Module]
    functions: tuple[Callable[..., Any], ...]
    methods: tuple[str, ...] = ()


_RELUS = (F.relu, torch.relu, F.relu_, torch.relu_)
FUSED = (
    FusedActivation("relu", codes.Activation(1), float("inf"), nn.ReLU, _RELUS, ("relu", "relu_")),
    FusedActivation("relu6", codes.Activation(2), 6.0, nn.ReLU6, (F.relu6,)),
)
# Of every name; None is no activation.
CODES: dict[str | None, codes.Activation] = {None: codes.Activation(0), **{a.name: a.code for a in FUSED}}
UPPER = {a.name: a.upper for a in FUSED}
# How a network says it, and its name.
MODULES: dict[type[nn.Module], str] = {a.module: a.name for a in FUSED}
FUNCTIONS: dict[Any, str] = {function: a.name for a in FUSED for function in a.functions}
METHODS = {method: a.name for a in FUSED for method in a.methods}


def activation_code(activation: str | None) -> codes.Activation:
    """The core's code of a fused activation; an error if it has no place in the table."""
    _checks.choice("activation", activation, tuple(CODES))
    return CODES[activation]


def activate(x: Tensor, activation: str | None) -> Tensor:
    """The activation fused in front of a quantizer: ``None``, ``"relu"`` or ``"relu6"``."""
    if activation is None:
        return x
    return F.relu(x) if activation == "relu" else F.relu6(x)
