"""Statistics of a BatchNorm's input, alone and with output, loss of Eq. 3 and gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.nn.functional as F
from baselines import compiled, no_such_op
from harness import HAST, Case, CaseMaker, Options, run
from shapes import Shape, label, maps
from torch import Tensor

import hast_cuda as hc
from hast_cuda.ops import _layout, _workspace, reference
from hast_cuda.ops._registry import core, launch, pointer
from hast_cuda.ops.activations import CODES
from hast_cuda.ops.codes import Pointer

EPS = 1e-5
ABSENT = Pointer(0)
Outputs = tuple[Tensor, Tensor]  # y and loss
DIMS = (0, 2, 3)


def fused_statistics(x: Tensor, running_mean: Tensor, running_var: Tensor) -> Outputs:
    """The kernel of batch_norm_match without its output: no public op needs this alone."""
    shape, place = _layout.extents(x, 1), launch(x)
    mean, var = torch.empty_like(running_mean), torch.empty_like(running_mean)
    count = core.batch_norm_match_scratch(**shape, device=place["device"])
    scratch = _workspace.scratch(x, count, torch.float64)
    core.batch_norm_match(
        x=pointer(x),
        residual=ABSENT,
        y=ABSENT,
        mean=pointer(mean),
        var=pointer(var),
        running_mean=pointer(running_mean),
        running_var=pointer(running_var),
        weight=ABSENT,
        bias=ABSENT,
        eps=EPS,
        scratch=pointer(scratch),
        activation=CODES[None],
        counters=_workspace.counters(x, shape["channels"]),
        **shape,
        **place,
    )
    return mean, var


def statistics(shape: Shape, options: Options) -> Case:
    """Mean and biased variance of every channel."""
    x = torch.randn(shape, device=options.device)
    mean = torch.zeros(shape[1], device=options.device)
    var = torch.ones(shape[1], device=options.device)

    def eager(x: Tensor) -> Outputs:
        return torch.var_mean(x, dim=DIMS, correction=0)

    candidates = {
        "eager": lambda: eager(x),
        HAST: lambda: fused_statistics(x, mean, var),
        "native": lambda: torch.batch_norm_update_stats(x, None, None, 0.1),
        **compiled(eager, lambda f: f(x), options),
        **no_such_op(),
    }
    return Case("statistics", label(shape), candidates, 4 * x.numel())


def match(shape: Shape, options: Options) -> Case:
    """Output, statistics and loss of one layer, and the gradient of its input from both."""
    x = torch.randn(shape, device=options.device, requires_grad=True)
    channels = shape[1]
    mean, bias = (torch.randn(channels, device=options.device) for _ in range(2))
    var, weight = (torch.rand(channels, device=options.device) + 0.5 for _ in range(2))
    upstream, one = torch.randn_like(x), torch.ones((), device=options.device)

    def step(function: Callable[[Tensor], Outputs]) -> object:
        return torch.autograd.grad(function(x), x, (upstream, one))

    def eager(x: Tensor) -> Outputs:
        y, m, v = reference.batch_norm_match(x, mean, var, weight, bias, EPS)
        return y, reference.match_loss([m], [v], [mean], [var])

    def fused(x: Tensor) -> Outputs:
        y, m, v = hc.batch_norm_match(x, mean, var, weight, bias, EPS)
        return y, hc.match_loss([m], [v], [mean], [var])

    def native(x: Tensor) -> Outputs:
        v, m = torch.var_mean(x, dim=DIMS, correction=0)
        y = F.batch_norm(x, mean, var, weight, bias, training=False, eps=EPS)
        return y, reference.match_loss([m], [v], [mean], [var])

    candidates = {
        "eager": lambda: step(eager),
        HAST: lambda: step(fused),
        "native": lambda: step(native),
        **compiled(eager, step, options),
        **no_such_op(),
    }
    return Case("BN match F+B", label(shape), candidates, 20 * x.numel())


def cases(options: Options) -> Iterable[tuple[str, CaseMaker]]:
    """Both on every map."""
    for shape in maps(options.large):
        yield f"statistics {label(shape)}", partial(statistics, shape, options)
        yield f"match {label(shape)}", partial(match, shape, options)


if __name__ == "__main__":
    run("batch_norm_match", __doc__, cases)
