"""Quantization of activations on a frozen range, and of signed values with the clipped gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from baselines import EagerQuantizer, brevitas, brevitas_activation, compiled, modelopt
from harness import HAST, Case, CaseMaker, Options, run
from shapes import Shape, label, maps
from torch import Tensor

import hast_cuda as hc
from hast_cuda.ops import reference

BITS = 4


def forward(shape: Shape, options: Options) -> Case:
    """ReLU and quantization, no gradient."""
    x = torch.randn(shape, device=options.device)
    state = hc.new_range_state(device=options.device)
    hc.quantize_activation(x, state, BITS, activation="relu", observe=True)
    lower, upper, scale = state[0:1], state[1:2], float(state[1]) / (2**BITS - 1)

    def eager(x: Tensor) -> Tensor:
        return reference.fake_quantize(x, lower, upper, BITS, activation="relu")

    def peer() -> Callable[[], object]:
        layer = brevitas_activation(x, options.device, observe=False)
        return torch.no_grad()(lambda: layer(x))

    candidates = {
        "eager": lambda: eager(x),
        HAST: lambda: hc.quantize_activation(x, state, BITS, activation="relu"),
        "native": lambda: torch.fake_quantize_per_tensor_affine(torch.relu(x), scale, 0, 0, 2**BITS - 1),
        **compiled(eager, lambda f: f(x), options),
        **modelopt(lambda f: lambda: f(torch.relu(x), upper, None, BITS, True, False)),
        **brevitas(peer),
    }
    return Case("relu + quantize, frozen range", label(shape), candidates, 8 * x.numel())


def both(shape: Shape, options: Options) -> Case:
    """Quantization and its clipped gradient."""
    x = torch.randn(shape, device=options.device, requires_grad=True)
    upstream = torch.randn_like(x)
    state = hc.new_range_state(device=options.device)
    hc.quantize_activation(x.detach(), state, BITS, observe=True)
    lower, upper = state[0:1], state[1:2]
    scale, zero = float(upper - lower) / (2**BITS - 1), 2 ** (BITS - 1)

    def step(function: Callable[[Tensor], Tensor]) -> object:
        return torch.autograd.grad(function(x), x, upstream)

    def eager(x: Tensor) -> Tensor:
        y: Tensor = EagerQuantizer.apply(x, lower, upper, BITS)
        return y

    def native(x: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 2**BITS - 1)

    def fused(x: Tensor) -> Tensor:
        return hc.quantize_activation(x, state, BITS, ste="clipped")

    def peer() -> Callable[[], object]:
        from brevitas.nn import QuantIdentity  # noqa: PLC0415
        from brevitas.quant import Int8ActPerTensorFloat  # noqa: PLC0415

        layer = QuantIdentity(act_quant=Int8ActPerTensorFloat, bit_width=BITS).to(options.device)
        layer(x.detach())  # the first batch sets the range
        layer.eval()
        return lambda: step(layer)

    candidates = {
        "eager": lambda: step(eager),
        HAST: lambda: step(fused),
        "native": lambda: step(native),
        **compiled(eager, step, options),
        **modelopt(lambda f: lambda: step(lambda x: f(x, upper, None, BITS, False, False))),
        **brevitas(peer),
    }
    return Case("quantize F+B, clipped gradient", label(shape), candidates, 20 * x.numel())


def cases(options: Options) -> Iterable[tuple[str, CaseMaker]]:
    """Both directions on every map."""
    for shape in maps(options.large):
        yield f"forward {label(shape)}", partial(forward, shape, options)
        yield f"both {label(shape)}", partial(both, shape, options)


if __name__ == "__main__":
    run("fake_quantize", __doc__, cases)
