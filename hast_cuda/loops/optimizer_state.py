"""An optimizer's state as tensors with names, for files and for other processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

STEPS = "step"  # Adam's count of its steps, the one state that is not like its parameter
SGD_STATES = frozenset({"momentum_buffer"})
ADAM_STATES = frozenset({STEPS, "exp_avg", "exp_avg_sq"})  # AdamW's too


def separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies: safetensors refuses tensors that share memory, as a shared module's do."""
    return {n: t.detach().clone(memory_format=torch.contiguous_format) for n, t in tensors.items()}


def prefixed(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The same under longer names."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those that :func:`prefixed` gave, under their own names."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Every state of every parameter, "3.exp_avg" that of the fourth; empty before a step."""
    states: dict[str, Any] = {}
    for index, parameter in enumerate(optimizer.param_groups[0]["params"]):
        states |= prefixed(optimizer.state.get(parameter, {}), f"{index}.")
    # SGD without momentum keeps a None
    return {name: value for name, value in states.items() if isinstance(value, Tensor)}


def load_optimizer_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Go on from :func:`optimizer_state`; ValueError, and nothing changed, if it is another's."""
    parameters = optimizer.param_groups[0]["params"]
    states: dict[nn.Parameter, dict[str, Tensor]] = defaultdict(dict)
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        if not index.isdecimal() or int(index) >= len(parameters):
            raise ValueError(f"the optimizer has no parameter {index!r}")
        parameter = parameters[int(index)]
        like = torch.empty_like(parameter)
        if key == STEPS:
            like = torch.empty((), dtype=torch.float32, device=parameter.device)
        if value.shape != like.shape or value.dtype != like.dtype:
            raise ValueError(f"the optimizer's {name} is {value.dtype} {list(value.shape)}")
        # laid out in memory as the parameter is: fused steps take that for granted
        states[parameter][key] = like.copy_(value)
    known = ADAM_STATES if isinstance(optimizer, torch.optim.Adam) else SGD_STATES
    for state in states.values():
        if state.keys() != known:
            raise ValueError(f"the optimizer needs {sorted(known)} of a parameter, not {sorted(state)}")
    optimizer.state.clear()
    for parameter, state in states.items():
        optimizer.state[parameter].update(state)
