"""Feature-alignment loss over all maps of a network, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from harness import arguments, measure, save

import hast_cuda as hc
from hast_cuda.ops import reference

NETWORKS = {
    "ResNet-20, batch 256": [(256, 16 << k, 32 >> k, 32 >> k) for k in (0, 0, 0, 1, 1, 1, 2, 2, 2)],
    "ResNet-18, batch 16": [(16, 64 << k, 56 >> k, 56 >> k) for k in (0, 0, 1, 1, 2, 2, 3, 3)],
}


def main() -> None:
    """Every pair of maps; gradients to both networks."""
    options = arguments(__doc__)
    rows = []
    for case, shapes in NETWORKS.items():
        teacher, student = (
            [torch.randn(s, device=options.device, requires_grad=True) for s in shapes]
            for _ in range(2)
        )

        def step(ops: Any, teacher: list[torch.Tensor], student: list[torch.Tensor]) -> None:
            torch.autograd.grad(ops.attention_loss(teacher, student), [*teacher, *student])

        rows += measure(
            "attention loss F+B", case,
            {
                "eager": lambda t=teacher, s=student: step(reference, t, s),
                "hast_cuda": lambda t=teacher, s=student: step(hc, t, s),
            },
            2 * 12 * sum(m.numel() for m in teacher), device=options.device, rounds=options.rounds,
        )  # fmt: skip
    save("channel_attention", rows, options)


if __name__ == "__main__":
    main()
