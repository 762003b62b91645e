"""BatchNorm with statistics and the loss of Eq. 3, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from harness import arguments, measure, save

import hast_cuda as hc
from hast_cuda.ops import reference

SHAPES = [(256, 16, 32, 32), (256, 64, 8, 8), (16, 64, 56, 56), (7, 33, 13, 5)]


def main() -> None:
    """One layer: output, statistics, loss, gradient of the input."""
    options = arguments(__doc__)
    rows = []
    for shape in SHAPES:
        x = torch.randn(shape, device=options.device, requires_grad=True)
        channels = shape[1]
        mean, bias = (torch.randn(channels, device=options.device) for _ in range(2))
        var, weight = (torch.rand(channels, device=options.device) + 0.5 for _ in range(2))
        upstream = torch.randn(shape, device=options.device)

        def step(ops: Any, x: torch.Tensor, *stats: torch.Tensor) -> None:
            mean, var, weight, bias, upstream = stats
            y, m, v = ops.batch_norm_match(x, mean, var, weight, bias, 1e-5)
            loss = ops.match_loss([m], [v], [mean], [var]) + (y * upstream).sum()
            torch.autograd.grad(loss, x)

        tensors = (x, mean, var, weight, bias, upstream)
        rows += measure(
            "BN match F+B", "x".join(map(str, shape)),
            {
                "eager": lambda t=tensors: step(reference, *t),
                "hast_cuda": lambda t=tensors: step(hc, *t),
            },
            20 * x.numel(), device=options.device, rounds=options.rounds,
        )  # fmt: skip
    save("batch_stats", rows, options)


if __name__ == "__main__":
    main()
