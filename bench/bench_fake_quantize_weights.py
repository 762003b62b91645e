"""Weights quantized in one call, on the range of every channel or on grids that stay."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from baselines import brevitas, brevitas_weight, compiled, modelopt, observer
from harness import HAST, Case, CaseMaker, Options, run
from shapes import NETWORKS, WEIGHTS, Shape, label, network_weights
from torch import Tensor

import hast_cuda as hc
from hast_cuda.ops import reference

BITS, TOP = 4, 2**4 - 1


def weights(name: str, tensors: list[Tensor], options: Options) -> Case:
    """Minimum and maximum of every output channel, and quantization."""
    bits = [BITS] * len(tensors)
    axes = [list(range(1, w.dim())) for w in tensors]
    observers = [observer(w.shape[0], options.device, 1.0, 0) for w in tensors]
    given = [
        (
            (w.flatten(1).amax(1) - w.flatten(1).amin(1)).clamp(min=1e-8) / TOP,
            torch.full((w.shape[0],), 8, dtype=torch.int32, device=options.device),
        )
        for w in tensors
    ]

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
            hc.fake_quantize(w, ends[0], ends[1], BITS, 0) for w, ends in zip(tensors, grids, strict=True)
        ],
        **compiled(eager, lambda f: f(*tensors), options),
    }
    return Case(
        "weights, grids given", f"{name}, {len(tensors)} layers", candidates, 8 * sum(w.numel() for w in tensors)
    )


def network(name: str, options: Options) -> Case:
    """All weights of a network in one call."""
    tensors = network_weights(name, options.device)
    return weights(f"{name}, {len(tensors)} layers", tensors, options)


def single(shape: Shape, options: Options) -> Case:
    """One weight."""
    return weights(label(shape), [torch.randn(shape, device=options.device)], options)


def cases(options: Options) -> Iterable[tuple[str, CaseMaker]]:
    """Single weights, whole networks."""
    for shape in WEIGHTS:
        yield f"weights {label(shape)}", partial(single, shape, options)
    for name in NETWORKS:
        yield f"weights {name}", partial(network, name, options)
        yield f"weights, grids given, {name}", partial(fixed, name, options)


if __name__ == "__main__":
    run("fake_quantize_weights", __doc__, cases)
