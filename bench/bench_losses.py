"""The losses of both training loops, forward and backward, and the plateau rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from baselines import compiled, no_such_op
from cuda_timing import Candidate
from harness import HAST, Case, CaseMaker, Options, run
from timing import Absent
from torch import Tensor

import hast_cuda as hc
from hast_cuda import ops
from hast_cuda.ops import reference

SHAPES = [(256, 10), (256, 100), (16, 1000)]
TEMPERATURE, EXPONENT = 20.0, 2.0
RULE: dict[str, Any] = {"patience": 50, "factor": 0.1, "threshold": 1e-4, "minimum": 1e-4}
NATIVE: dict[str, Candidate | Absent] = {"native": Absent("torch has no such op")}


def distillation(shape: tuple[int, int], both: bool, options: Options) -> Case:
    """Eq. 6 with its gradient to the student, or to both networks."""
    teacher = torch.randn(shape, device=options.device, requires_grad=both)
    student = torch.randn(shape, device=options.device, requires_grad=True)
    wanted = [teacher, student] if both else [student]

    def step(loss: Callable[[Tensor, Tensor, float], Tensor]) -> object:
        return torch.autograd.grad(loss(teacher, student, TEMPERATURE), wanted)

    candidates = {
        "eager": lambda: step(reference.distillation_loss),
        HAST: lambda: step(hc.distillation_loss),
        **NATIVE,
        **compiled(reference.distillation_loss, step, options),
        **no_such_op(),
    }
    passes = 8 if both else 5  # two read, a gradient or two written; the same in backward
    name = f"distillation F+B{', both' if both else ''}"
    return Case(name, "x".join(map(str, shape)), candidates, 4 * passes * student.numel())


def hard_sample(shape: tuple[int, int], options: Options) -> Case:
    """Eq. 8 with its gradient."""
    logits = torch.randn(shape, device=options.device, requires_grad=True)
    labels = torch.randint(shape[1], shape[:1], device=options.device)

    def step(loss: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]) -> object:
        return torch.autograd.grad(loss(logits, labels, EXPONENT)[0], logits)

    candidates = {
        "eager": lambda: step(reference.hard_sample_loss),
        HAST: lambda: step(hc.hard_sample_loss),
        **NATIVE,
        **compiled(reference.hard_sample_loss, step, options),
        **no_such_op(),
    }
    return Case("hard-sample F+B", "x".join(map(str, shape)), candidates, 16 * logits.numel())


def plateau(options: Options) -> Case:
    """One step of the learning rate, on the device."""
    loss = torch.ones((), device=options.device)
    states = [ops.new_plateau_state(0.5, device=options.device) for _ in range(3)]
    candidates = {
        "eager": lambda: reference.plateau_step(*states[0], loss, **RULE),
        HAST: lambda: ops.plateau_step(*states[1], loss, **RULE),
        **NATIVE,
        **compiled(reference.plateau_step, lambda f: f(*states[2], loss, **RULE), options),
        **no_such_op(),
    }
    return Case("plateau step", "one loss", candidates, 56)  # state and rate, read and written


def cases(options: Options) -> Iterable[tuple[str, CaseMaker]]:
    """Both losses on every shape, then the rule."""
    for shape in SHAPES:
        name = "x".join(map(str, shape))
        for both in (True, False):
            yield (f"distillation {name}{' both' if both else ''}", partial(distillation, shape, both, options))
        yield f"hard-sample {name}", partial(hard_sample, shape, options)
    yield "plateau", partial(plateau, options)


if __name__ == "__main__":
    run("losses", __doc__, cases)
