"""The BatchNorm-statistic loss of Eq. 3 over all layers of a network, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from baselines import compiled, no_such_op
from harness import HAST, Case, CaseMaker, Options, run
from shapes import NETWORKS, norm_channels
from timing import Absent
from torch import Tensor

import hast_cuda as hc
from hast_cuda.ops import reference


def network(name: str, options: Options) -> Case:
    """Loss and the gradients of all means and variances."""
    sizes = norm_channels(name)
    means, variances = ([torch.randn(c, device=options.device, requires_grad=True) for c in sizes] for _ in range(2))
    running_means, running_vars = ([torch.randn(c, device=options.device) for c in sizes] for _ in range(2))
    leaves, layers = [*means, *variances], len(sizes)

    def step(function: Callable[..., Tensor]) -> object:
        return torch.autograd.grad(function(*leaves), leaves)

    def eager(*tensors: Tensor) -> Tensor:
        return reference.match_loss(tensors[:layers], tensors[layers:], running_means, running_vars)

    def fused(*tensors: Tensor) -> Tensor:
        return hc.match_loss(tensors[:layers], tensors[layers:], running_means, running_vars)

    candidates = {
        "eager": lambda: step(eager),
        HAST: lambda: step(fused),
        "native": Absent("torch has no such op"),
        **compiled(eager, step, options),
        **no_such_op(),
    }
    return Case("match loss F+B", f"{name}, {layers} layers", candidates, 4 * 6 * sum(sizes))


def cases(options: Options) -> Iterable[tuple[str, CaseMaker]]:
    """Every network."""
    for name in NETWORKS:
        yield name, partial(network, name, options)


if __name__ == "__main__":
    run("match_loss", __doc__, cases)
