"""What a call costs the host: ops on a map so small that nothing else takes time, beside torch's own.

On CUDA outside of a graph every call costs this, whatever the kernel takes. Meaningful with
``--threads 1`` alone: the clock is that of the calling thread. Beside each call stands an op of
torch.library that is written in Python and only makes its three outputs, with a gradient by a Function
that keeps the operands and calls another such op: nothing that is registered so can cost less.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from cuda_timing import Candidate
from harness import HAST, Case, CaseMaker, Options, run

import hast_cuda as hc

SHAPE = (1, 4, 2, 2)
TORCH, FLOOR = "torch", "registered"
LIBRARY = torch.library.Library("hast_bench", "DEF")
LIBRARY.define("nothing(Tensor x, Tensor mean, Tensor var, float eps, str? activation) -> (Tensor, Tensor, Tensor)")
LIBRARY.define("nothing_backward(Tensor? dy, Tensor x, Tensor batch_mean, Tensor mean, Tensor var) -> Tensor")


def nothing(x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, *_: object) -> tuple[torch.Tensor, ...]:
    """The outputs of batch_norm_match, without values."""
    return torch.empty_like(x), torch.empty_like(mean), torch.empty_like(var)


def nothing_backward(_: torch.Tensor | None, x: torch.Tensor, *__: object) -> torch.Tensor:
    """The gradient of x, without values."""
    return torch.empty_like(x)


for made in (nothing, nothing_backward):
    for key in ("CPU", "CUDA"):
        LIBRARY.impl(made.__name__, made, key)


class Nothing(torch.autograd.Function):
    """Both as one differentiable function."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, *others: Any) -> tuple[torch.Tensor, ...]:
        outputs: tuple[torch.Tensor, ...] = torch.ops.hast_bench.nothing.default(x, *others)
        ctx.save_for_backward(x, outputs[1], *others[:2])
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor | None, *_: torch.Tensor | None) -> tuple[Any, ...]:
        return torch.ops.hast_bench.nothing_backward.default(dy, *ctx.saved_tensors), None, None, None, None


def backward_of(forward: Candidate, x: torch.Tensor, grad: torch.Tensor) -> Candidate:
    """Forward and backward: the gradient of ``x``."""

    def both() -> object:
        result = forward()
        y = result[0] if isinstance(result, tuple) else result
        assert isinstance(y, torch.Tensor)
        return torch.autograd.grad(y, x, grad)

    return both


def host(op: str, backward: bool, options: Options) -> Case:
    """One op and the call of torch's that does most like it."""
    x = torch.randn(SHAPE, device=options.device, requires_grad=backward)
    grad = torch.randn_like(x)
    mean, bias = (torch.randn(SHAPE[1], device=options.device) for _ in range(2))
    var, weight = (torch.rand(SHAPE[1], device=options.device) + 0.5 for _ in range(2))
    state = torch.tensor([-1.0, 1.0, 0, 0, 0], device=options.device)
    scale, zero = torch.tensor([2 / 15], device=options.device), torch.tensor([0], device=options.device)
    norm: Candidate = partial(F.batch_norm, x, mean, var, weight, bias)
    calls: dict[str, tuple[Candidate, Candidate]] = {
        "quantize_activation": (
            partial(hc.quantize_activation, x, state, 4),
            partial(torch.fake_quantize_per_tensor_affine, x, scale, zero, -8, 7),
        ),
        "batch_norm_match": (partial(hc.batch_norm_match, x, mean, var, weight, bias), norm),
        "batch_norm_activation": (partial(hc.ops.batch_norm_activation, x, mean, var, weight, bias), norm),
    }
    nothing_done = Nothing.apply if backward else torch.ops.hast_bench.nothing.default
    three = *calls[op], partial(nothing_done, x, mean, var, 1e-5, None)
    ours, theirs, floor = (backward_of(call, x, grad) if backward else call for call in three)
    kind = "call, forward and backward" if backward else "call"
    return Case(kind, op, {TORCH: theirs, FLOOR: floor, HAST: ours}, None)


def cases(options: Options) -> Iterable[tuple[str, CaseMaker]]:
    """Every op without and with a gradient."""
    for op in ("quantize_activation", "batch_norm_match", "batch_norm_activation"):
        for backward in (False, True):
            yield f"{op} {'backward' if backward else 'forward'}", partial(host, op, backward, options)


if __name__ == "__main__":
    run("host", __doc__, cases)
