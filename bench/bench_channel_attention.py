"""Attention vectors, and the feature-alignment loss over all maps of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from baselines import compiled, no_such_op
from harness import HAST, Case, CaseMaker, Options, run
from shapes import Shape, label, maps, units
from timing import Absent
from torch import Tensor

import hast_cuda as hc
from hast_cuda.ops import reference


def vector(shape: Shape, options: Options) -> Case:
    """Attention vector of one map."""
    x = torch.randn(shape, device=options.device)
    candidates = {
        "eager": lambda: reference.channel_attention(x),
        HAST: lambda: hc.channel_attention(x),
        "native": lambda: torch.linalg.vector_norm(x, 2, (2, 3)).square(),
        **compiled(reference.channel_attention, lambda f: f(x), options),
        **no_such_op(),
    }
    return Case("attention F", label(shape), candidates, 4 * x.numel())


def pair_loss(name: str, shapes: list[Shape], options: Options) -> Case:
    """Every pair of maps; gradients to both networks."""
    maps = [torch.randn(s, device=options.device, requires_grad=True) for s in [*shapes, *shapes]]
    layers = len(shapes)

    def step(function: Callable[..., Tensor]) -> object:
        return torch.autograd.grad(function(*maps), maps)

    def eager(*tensors: Tensor) -> Tensor:
        return reference.attention_loss(tensors[:layers], tensors[layers:])

    def fused(*tensors: Tensor) -> Tensor:
        return hc.attention_loss(tensors[:layers], tensors[layers:])

    candidates = {
        "eager": lambda: step(eager),
        HAST: lambda: step(fused),
        "native": Absent("torch has no such op"),
        **compiled(eager, step, options),
        **no_such_op(),
    }
    return Case("attention loss F+B", name, candidates, 12 * sum(m.numel() for m in maps))


def cases(options: Options) -> Iterable[tuple[str, CaseMaker]]:
    """Vectors of single maps, the loss of whole networks."""
    for shape in maps(options.large):
        yield f"vector {label(shape)}", partial(vector, shape, options)
    for name, shapes in units(options.large).items():
        yield f"loss {name}", partial(pair_loss, name, shapes, options)


if __name__ == "__main__":
    run("channel_attention", __doc__, cases)
