"""Quantization that finds its own range: activations by moving average, weights per channel."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from baselines import (
    MODELOPT,
    brevitas,
    brevitas_activation,
    brevitas_weight,
    compiled,
    modelopt,
)
from harness import HAST, Case, CaseMaker, Options, run
from shapes import NETWORKS, WEIGHTS, Shape, label, maps, network_weights
from timing import Absent
from torch import Tensor

import hast_cuda as hc
from hast_cuda.ops import reference

BITS, TOP = 4, 2**4 - 1


def _observer(
    channels: int, device: torch.device, weight: float, axis: int
) -> Callable[..., Tensor]:
    """torch's fused observer and quantizer with a state of its own."""
    flag = torch.ones(1, dtype=torch.long, device=device)
    low, high, scale = (torch.ones(channels, device=device) for _ in range(3))
    zero = torch.zeros(channels, dtype=torch.int32, device=device)
    return lambda x: torch.fused_moving_avg_obs_fake_quant(
        x, flag, flag, low, high, scale, zero, weight, 0, TOP, max(axis, 0), axis >= 0, False
    )


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

    observe = _observer(1, options.device, 0.1, -1)
    candidates = {
        "eager": lambda: eager(x, states[0]),
        HAST: lambda: hc.quantize_activation(
            x, states[1], BITS, activation="relu", observe=True
        ),
        "native": lambda: observe(torch.relu(x)),
        **compiled(eager, lambda f: f(x, states[2]), options),
        MODELOPT: Absent("no moving average of a range"),
        **brevitas(peer),
    }  # fmt: skip
    return Case("relu + range + quantize", label(shape), candidates, 12 * x.numel())


def weights(name: str, tensors: list[Tensor], options: Options) -> Case:
    """Minimum and maximum of every output channel, and quantization."""
    bits = [BITS] * len(tensors)
    axes = [list(range(1, w.dim())) for w in tensors]
    observers = [_observer(w.shape[0], options.device, 1.0, 0) for w in tensors]
    given = [
        ((w.flatten(1).amax(1) - w.flatten(1).amin(1)).clamp(min=1e-8) / TOP,
         torch.full((w.shape[0],), 8, dtype=torch.int32, device=options.device))
        for w in tensors
    ]  # fmt: skip

    def eager(*tensors: Tensor) -> list[Tensor]:
        return reference.fake_quantize_weights(tensors, bits)

    def with_ranges() -> object:
        return [
            torch.fake_quantize_per_channel_affine(w, scale, zero, 0, 0, TOP)
            for w, (scale, zero) in zip(tensors, given, strict=True)
        ]

    def symmetric(quantize: Callable[..., Tensor]) -> Callable[[], object]:
        return lambda: [
            quantize(w, w.abs().amax(axis, keepdim=True), None, BITS, False, False)
            for w, axis in zip(tensors, axes, strict=True)
        ]

    def peer() -> Callable[[], object]:
        layers = [brevitas_weight(w) for w in tensors]
        return torch.no_grad()(lambda: [layer() for layer in layers])

    candidates = {
        "eager": lambda: eager(*tensors),
        HAST: lambda: hc.fake_quantize_weights(tensors, bits),
        "native": lambda: [f(w) for f, w in zip(observers, tensors, strict=True)],
        "native, ranges given": with_ranges,
        **compiled(eager, lambda f: f(*tensors), options),
        **modelopt(symmetric),
        **brevitas(peer),
    }
    return Case("weights", name, candidates, 8 * sum(w.numel() for w in tensors))


def fixed(name: str, options: Options) -> Case:
    """All weights of a network on grids that stay, as behind SQuant's rounding."""
    tensors = network_weights(name, options.device)
    bits = [BITS] * len(tensors)
    grids = [torch.stack(w.flatten(1).aminmax(dim=1)) for w in tensors]

    def eager(*tensors: Tensor) -> list[Tensor]:
        return reference.fake_quantize_weights(tensors, bits, ranges=grids)

    candidates = {
        "eager": lambda: eager(*tensors),
        HAST: lambda: hc.fake_quantize_weights(tensors, bits, ranges=grids),
        "one call per layer": lambda: [
            hc.fake_quantize(w, *ends, BITS, 0) for w, ends in zip(tensors, grids, strict=True)
        ],
        **compiled(eager, lambda f: f(*tensors), options),
    }
    return Case(
        "weights, grids given", f"{name}, {len(tensors)} layers", candidates,
        8 * sum(w.numel() for w in tensors),
    )  # fmt: skip


def network(name: str, options: Options) -> Case:
    """All weights of a network in one call."""
    tensors = network_weights(name, options.device)
    return weights(f"{name}, {len(tensors)} layers", tensors, options)


def single(shape: Shape, options: Options) -> Case:
    """One weight."""
    return weights(label(shape), [torch.randn(shape, device=options.device)], options)


def cases(options: Options) -> Iterable[tuple[str, CaseMaker]]:
    """Activations, single weights, whole networks."""
    for shape in maps(options.large):
        yield f"activation {label(shape)}", partial(activation, shape, options)
    for shape in WEIGHTS:
        yield f"weights {label(shape)}", partial(single, shape, options)
    for name in NETWORKS:
        yield f"weights {name}", partial(network, name, options)
        yield f"weights, grids given, {name}", partial(fixed, name, options)


if __name__ == "__main__":
    run("channel_range", __doc__, cases)
