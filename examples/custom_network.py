"""A network of your own: LeakyReLU, SiLU, Hardswish, F.relu, a concatenation, a linear bottleneck.

None of these needs a module of the package. ``placement="all"`` quantizes the input of every
convolution and linear layer, whatever it comes from: activations written as functions, outputs of a
bottleneck that has none, concatenated maps, the image. Overrides keep the first and the last layer
at 8 bits. The network is first trained on scikit-learn's digits, since it needs weights; the
quantization sees none of them, but for the accuracy at the end. Needs
``pip install 'hast_cuda[demo]'``.

    python examples/custom_network.py          # a minute on one core
    python examples/custom_network.py --small  # seconds
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hast_cuda as hc
from hast_cuda.data import load_images
from hast_cuda.methods import change, recipe
from hast_cuda.run import Bits, zero_shot_quantize
from hast_cuda.teachers import input_spec


def convolution(channels: int, width: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution and BatchNorm; no activation."""
    return nn.Sequential(nn.Conv2d(channels, width, size, stride, size // 2, bias=False), nn.BatchNorm2d(width))


class OwnNet(nn.Module):
    """float32 [N, 1, 8, 8] -> logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(1, 16)
        self.leaky, self.silu, self.hardswish = nn.LeakyReLU(0.1), nn.SiLU(), nn.Hardswish()
        self.left, self.right = convolution(16, 16), convolution(16, 16, 1)
        self.expand = convolution(32, 48, 1, 2)
        self.project = convolution(48, 24, 1)
        self.last = convolution(24, 32)
        self.output = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Ordinary code: nothing is written for quantization."""
        x = self.leaky(self.stem(x))
        x = torch.cat([self.silu(self.left(x)), F.relu(self.right(x))], 1)
        x = self.project(self.hardswish(self.expand(x)))  # a linear bottleneck: values of any sign
        x = F.relu(self.last(x))
        logits: Tensor = self.output(x.mean((2, 3)))
        return logits


def trained(images: Tensor, labels: Tensor, epochs: int) -> OwnNet:
    """The network that somebody gives to you."""
    network = OwnNet()
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
        schedule.step()
    return network.eval()


def main() -> None:
    """Train, quantize without data, and print what became of each layer and the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, default=3, help="of weights and activations, 2 to 8")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="run directory; by default nothing is kept")
    parser.add_argument("--small", action="store_true", help="64 images, few iterations")
    options = parser.parse_args()
    spec = input_spec("digits")
    (images, labels), *_ = load_images("digits", spec=spec, split="train").batches(10_000)
    torch.manual_seed(options.seed)
    network = trained(images, labels, epochs=8 if options.small else 30)

    bits = Bits(
        options.bits,
        options.bits,
        placement="all",
        overrides={"stem.*": hc.Override(8, 8), "output": hc.Override(8, 8)},
    )
    count, synthesis, reconstruction, finetune = (64, 60, 40, 40) if options.small else (512, 300, 300, 300)
    budget = {
        "synthesis.num_images": count,
        "synthesis.batch_size": min(count, 256),
        "synthesis.iterations": synthesis,
        "reconstruction.iterations": reconstruction,
        "finetune.iterations": finetune,
        "finetune.batch_size": 64,
    }
    done = zero_shot_quantize(
        network,
        (spec.channels, spec.height, spec.width),
        bits,
        seed=options.seed,
        recipe=change(recipe("hast", "default", "cifar10"), budget),
        out=options.out,
        test=load_images("digits", spec=spec),
    )
    print(hc.quantization_table(done.student))
    for name in ("full_precision", "rounded", "start_of_finetuning", "quantized"):
        print(f"{name:<20}{done.result[name]:6.2f} %")


if __name__ == "__main__":
    main()
