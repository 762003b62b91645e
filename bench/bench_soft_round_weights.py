"""Soft-rounded weights of a block with their regulariser, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from baselines import compiled, no_such_op
from harness import HAST, Case, CaseMaker, Options, run
from shapes import BLOCKS
from timing import Absent
from torch import Tensor

import hast_cuda as hc
from hast_cuda.ops import reference

BITS = 4


def block(name: str, options: Options) -> Case:
    """All weights of a block: their values, the regulariser, and the gradients of V and of the steps."""
    shapes, device = BLOCKS[name], options.device
    count, bits = len(shapes), [BITS] * len(shapes)
    bases = [torch.randint(-8, 7, shape, device=device).float() for shape in shapes]
    lows = [torch.full(shape[:1], -8.0, device=device) for shape in shapes]
    roundings = [2 * torch.randn(shape, device=device) for shape in shapes]
    steps = [torch.rand(shape[:1], device=device) + 0.1 for shape in shapes]
    leaves = [x.requires_grad_() for x in (*roundings, *steps)]
    upstream = [torch.randn(shape, device=device) for shape in shapes]
    beta, factor = torch.tensor(10.0, device=device), torch.tensor(0.01, device=device)

    def step(function: Callable[..., Any]) -> object:
        weights, regulariser = function(*leaves)
        return torch.autograd.grad([*weights, regulariser], leaves, [*upstream, factor])

    def eager(*tensors: Tensor) -> Any:
        return reference.soft_round_weights(bases, tensors[:count], tensors[count:], lows, bits, beta)

    def fused(*tensors: Tensor) -> Any:
        return hc.ops.soft_round_weights(bases, tensors[:count], tensors[count:], lows, bits, beta)

    candidates = {
        "eager": lambda: step(eager),
        HAST: lambda: step(fused),
        "native": Absent("torch has no such op"),
        **compiled(eager, step, options),
        **no_such_op(),
    }
    elements = sum(base.numel() for base in bases)
    return Case("soft rounding F+B", f"{name}, {count} layers", candidates, 4 * 7 * elements)


def cases(options: Options) -> Iterable[tuple[str, CaseMaker]]:
    """Every block."""
    for name in BLOCKS:
        yield name, partial(block, name, options)


if __name__ == "__main__":
    run("soft_round_weights", __doc__, cases)
