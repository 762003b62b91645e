"""Quantization-aware training in a plain PyTorch loop: the layers alone, on real data.

A small network of FakeQuantConv2d, FakeQuantLinear and FakeQuantActivation is trained on
scikit-learn's digits, with 2-bit weights and activations between 8-bit first and last layers. The
same network in full precision is trained beside it and rounded afterwards, to show what training
with quantizers is worth. Needs ``pip install 'hast_cuda[demo]'``.

    python examples/fake_quant_training.py          # twenty seconds on one core
    python examples/fake_quant_training.py --small  # seconds
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hast_cuda as hc
from hast_cuda.data import evaluate, load_images
from hast_cuda.teachers import input_spec

WIDTHS = (16, 32, 32)
EDGE_BITS = 8  # of the first and the last layer
BATCH_SIZE = 64


def quantized_network(bits: int) -> nn.Sequential:
    """float32 [N, 1, 8, 8] -> logits [N, 10]; constructors and parameters are those of torch.nn."""
    layers: list[nn.Module] = []
    channels, weight_bits = 1, EDGE_BITS
    for width in WIDTHS:
        layers += [
            hc.FakeQuantConv2d(channels, width, 3, padding=1, bias=False, weight_bits=weight_bits),
            nn.BatchNorm2d(width),
            hc.FakeQuantActivation(bits, activation="relu"),
            nn.MaxPool2d(2),
        ]
        channels, weight_bits = width, bits
    return nn.Sequential(*layers, nn.Flatten(), hc.FakeQuantLinear(channels, 10, weight_bits=EDGE_BITS))


def plain_network() -> nn.Sequential:
    """The same without quantizers."""
    layers: list[nn.Module] = []
    channels = 1
    for width in WIDTHS:
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, 10))


def train(network: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Nothing here knows of quantization: gradients pass straight through the quantizers."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
    steps = epochs * (len(images) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        order = torch.randperm(len(images))[: len(images) // BATCH_SIZE * BATCH_SIZE]
        for batch in order.split(BATCH_SIZE):
            loss = F.cross_entropy(network(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def main() -> None:
    """Train both networks and print their accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, default=2, help="of weights and activations, 2 to 8")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="6 epochs")
    options = parser.parse_args()
    epochs = 6 if options.small else options.epochs
    spec = input_spec("digits")
    (images, labels), *_ = load_images("digits", spec=spec, split="train").batches(10_000)
    test = load_images("digits", spec=spec, split="test")

    torch.manual_seed(options.seed)
    plain = plain_network()
    train(plain, images, labels, epochs)
    edges = {name: hc.Override(EDGE_BITS) for name in ("0", "13")}
    rounded = hc.quantize(plain, options.bits, options.bits, overrides=edges)
    hc.calibrate(rounded, images.split(256))

    torch.manual_seed(options.seed)
    network = quantized_network(options.bits)
    train(network, images, labels, epochs)
    hc.freeze_ranges(network)  # before any evaluation: test images must not move the ranges

    print(f"{options.bits}-bit weights and activations, {epochs} epochs, {len(test)} test digits")
    print(f"full precision      {evaluate(plain, test):6.2f} %")
    print(f"rounded afterwards  {evaluate(rounded, test):6.2f} %")
    print(f"trained quantized   {evaluate(network, test):6.2f} %")


if __name__ == "__main__":
    main()
