"""Activation quantization on a frozen range: hast_cuda, eager, torch's native op."""

from __future__ import annotations

import argparse

import torch
from harness import Row, arguments, measure, save

import hast_cuda as hc
from hast_cuda.ops import reference

# ResNet-20 at batch 256, ResNet-18 and MobileNetV2 at batch 16, one ragged shape.
SHAPES = [(256, 16, 32, 32), (256, 64, 8, 8), (16, 64, 56, 56), (16, 192, 28, 28), (7, 33, 13, 5)]


def bench(shape: tuple[int, ...], options: argparse.Namespace) -> list[Row]:
    """ReLU + forward, and forward + backward with the clipped gradient."""
    x = torch.randn(shape, device=options.device)
    leaf, upstream = x.clone().requires_grad_(), torch.randn_like(x)
    state = hc.new_range_state(device=options.device)
    hc.quantize_activation(x, state, 4, activation="relu", observe=True)
    lower, upper, native_scale = state[0:1], state[1:2], float(state[1]) / 15
    case, size = "x".join(map(str, shape)), 4 * x.numel()

    def eager_backward() -> None:
        reference.fake_quantize(x, lower, upper, 4)
        reference.fake_quantize_backward(upstream, x, lower, upper, 4, clipped=True)

    def fused_backward() -> None:
        y = hc.quantize_activation(leaf, state, 4, ste="clipped")
        torch.autograd.grad(y, leaf, upstream)

    def native_backward() -> None:
        y = torch.fake_quantize_per_tensor_affine(leaf, native_scale, 0, 0, 15)
        torch.autograd.grad(y, leaf, upstream)

    forward = {
        "eager": lambda: reference.fake_quantize(x, lower, upper, 4, activation="relu"),
        "hast_cuda": lambda: hc.quantize_activation(x, state, 4, activation="relu"),
        "native": lambda: torch.fake_quantize_per_tensor_affine(
            torch.relu(x), native_scale, 0, 0, 15
        ),
        "copy": x.clone,
    }
    both = {"eager": eager_backward, "hast_cuda": fused_backward, "native": native_backward}
    limits = {"device": options.device, "rounds": options.rounds}
    return [
        *measure("relu+quantize", case, forward, 2 * size, **limits),
        *measure("quantize clipped F+B", case, both, 5 * size, **limits),
    ]


def main() -> None:
    """All shapes."""
    options = arguments(__doc__)
    save("fake_quant", [row for shape in SHAPES for row in bench(shape, options)], options)


if __name__ == "__main__":
    main()
