"""Weights of a whole network in one call, and activation quantization with range tracking."""

from __future__ import annotations

import torch
from harness import arguments, measure, save
from pytorchcv.model_provider import get_model
from torch import nn

import hast_cuda as hc
from hast_cuda.ops import reference

SHAPES = [(256, 16, 32, 32), (256, 64, 8, 8), (16, 64, 56, 56)]


def main() -> None:
    """ResNet-20, ResNet-18 and MobileNetV2 weights; dynamic activations."""
    options = arguments(__doc__)
    rows = []
    for name in ("resnet20_cifar10", "resnet18", "mobilenetv2_w1"):
        network = get_model(name, pretrained=False).to(options.device)
        weights = [
            m.weight.detach() for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))
        ]
        bits = [4] * len(weights)
        rows += measure(
            "weights", f"{name}, {len(weights)} layers",
            {
                "eager": lambda w=weights, b=bits: reference.fake_quantize_weights(w, b),
                "hast_cuda": lambda w=weights, b=bits: hc.fake_quantize_weights(w, b),
                "copy": lambda w=weights: [t.clone() for t in w],
            },
            sum(8 * w.numel() for w in weights), device=options.device, rounds=options.rounds,
        )  # fmt: skip
    for shape in SHAPES:
        x = torch.randn(shape, device=options.device)
        states = [hc.new_range_state(device=options.device) for _ in range(2)]

        def eager(x: torch.Tensor = x, state: torch.Tensor = states[0]) -> torch.Tensor:
            reference.update_range(x, state, activation="relu")
            return reference.fake_quantize(x, state[0:1], state[1:2], 4, activation="relu")

        observer = torch.ao.quantization.FusedMovingAvgObsFakeQuantize().to(options.device)
        rows += measure(
            "relu+range+quantize", "x".join(map(str, shape)),
            {
                "eager": eager,
                "hast_cuda": lambda x=x, s=states[1]: hc.quantize_activation(
                    x, s, 4, activation="relu", observe=True
                ),
                "native": lambda x=x, o=observer: o(torch.relu(x)),
            },
            12 * x.numel(), device=options.device, rounds=options.rounds,
        )  # fmt: skip
    save("channel_range", rows, options)


if __name__ == "__main__":
    main()
