"""Activation, moving average of its range, quantization."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from baselines import MODELOPT, brevitas, brevitas_activation, compiled, observer
from harness import HAST, Case, CaseMaker, Options, run
from shapes import Shape, label, maps
from timing import Absent
from torch import Tensor

import hast_cuda as hc
from hast_cuda.ops import reference

BITS = 4


def activation(shape: Shape, options: Options) -> Case:
    """ReLU, one step of the moving average, quantization."""
    x = torch.randn(shape, device=options.device)
    states = [hc.new_range_state(device=options.device) for _ in range(3)]

    def eager(x: Tensor, state: Tensor) -> Tensor:
        reference.update_range(x, state, activation="relu")
        return reference.fake_quantize(x, state[0:1], state[1:2], BITS, activation="relu")

    def peer() -> Callable[[], object]:
        layer = brevitas_activation(x, options.device, observe=True)
        return torch.no_grad()(lambda: layer(x))

    observe = observer(1, options.device, 0.1, -1)
    candidates = {
        "eager": lambda: eager(x, states[0]),
        HAST: lambda: hc.quantize_activation(x, states[1], BITS, activation="relu", observe=True),
        "native": lambda: observe(torch.relu(x)),
        **compiled(eager, lambda f: f(x, states[2]), options),
        MODELOPT: Absent("no moving average of a range"),
        **brevitas(peer),
    }
    return Case("relu + range + quantize", label(shape), candidates, 12 * x.numel())


def cases(options: Options) -> Iterable[tuple[str, CaseMaker]]:
    """Every map."""
    for shape in maps(options.large):
        yield f"activation {label(shape)}", partial(activation, shape, options)


if __name__ == "__main__":
    run("quantize_activation", __doc__, cases)
