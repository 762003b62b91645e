"""The losses of both training loops, forward and backward, and the plateau rule."""

from __future__ import annotations

from typing import Any

import torch
from harness import Row, arguments, measure, save

import hast_cuda as hc
from hast_cuda import ops
from hast_cuda.ops import reference

SHAPES = [(256, 10), (256, 100), (16, 1000)]
RULE = {"patience": 50, "factor": 0.1, "threshold": 1e-4, "minimum": 1e-4}


def bench(shape: tuple[int, int], device: str, rounds: int) -> list[Row]:
    """Distillation with gradients to both networks and to one, hard-sample loss."""
    teacher, student = (torch.randn(shape, device=device, requires_grad=True) for _ in range(2))
    labels = torch.randint(shape[1], shape[:1], device=device)
    fixed, case, size = teacher.detach(), "x".join(map(str, shape)), 4 * teacher.numel()

    def both(ops: Any) -> None:
        torch.autograd.grad(ops.distillation_loss(teacher, student, 20.0), [teacher, student])

    def one(ops: Any) -> None:
        torch.autograd.grad(ops.distillation_loss(fixed, student, 20.0), student)

    def hard(ops: Any) -> None:
        torch.autograd.grad(ops.hard_sample_loss(student, labels, 2.0)[0], student)

    limits = {"device": device, "rounds": rounds}
    rows: list[Row] = []
    for op, function, passes in (
        ("distillation F+B, both", both, 8),  # two read, two written; the same in backward
        ("distillation F+B", one, 5),
        ("hard-sample F+B", hard, 4),
    ):
        candidates = {
            "eager": lambda f=function: f(reference),
            "hast_cuda": lambda f=function: f(hc),
        }
        rows += measure(op, case, candidates, passes * size, **limits)
    return rows


def main() -> None:
    """All shapes, then one step of the learning rate."""
    options = arguments(__doc__)
    rows = [row for shape in SHAPES for row in bench(shape, options.device, options.rounds)]
    loss = torch.ones((), device=options.device)
    states = [ops.new_plateau_state(0.5, device=options.device) for _ in range(2)]
    rows += measure(
        "plateau step", "1",
        {
            "eager": lambda: reference.plateau_step(*states[0], loss, **RULE),
            "hast_cuda": lambda: ops.plateau_step(*states[1], loss, **RULE),
        },
        56, device=options.device, rounds=options.rounds,
    )  # fmt: skip
    save("losses", rows, options)


if __name__ == "__main__":
    main()
