"""The fused operators alone: a synthesis loop of your own, without the package's.

Noise becomes images of digits: every BatchNorm layer of the demo's network is called through
``batch_norm_match``, which gives its output and the statistics of the batch from one read;
``match_loss`` compares all of them with the running statistics in one launch, and
``hard_sample_loss`` asks for images that the network finds hard. The images then set the activation
ranges of a 3-bit copy, beside noise; the accuracy on real digits says what they are worth. Needs
``pip install 'hast_cuda[demo]'``.

    python examples/fused_ops.py          # a minute on one core
    python examples/fused_ops.py --small  # seconds
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.data import evaluate, load_images
from hast_cuda.teachers import input_spec
from hast_cuda.teachers.digits import load_digits_network

LABEL_WEIGHT = 10.0
DIFFICULTY = 2.0  # the exponent: 0 is plain cross entropy


class Recorded(nn.Module):
    """A BatchNorm layer in eval mode that keeps the statistics of its input, with gradients."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm
        self.mean = self.var = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> same."""
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        y, self.mean, self.var = hc.batch_norm_match(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps
        )
        return y


def record(network: nn.Module) -> list[Recorded]:
    """Put a Recorded in the place of every BatchNorm2d."""
    found: list[Recorded] = []
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                found.append(Recorded(child))
                setattr(parent, name, found[-1])
    return found


def statistics_loss(layers: list[Recorded]) -> Tensor:
    """Eq. 3 over all layers, of the last forward pass."""
    running = [layer.norm for layer in layers]
    return hc.match_loss(
        [layer.mean for layer in layers],
        [layer.var for layer in layers],
        [norm.running_mean for norm in running if norm.running_mean is not None],
        [norm.running_var for norm in running if norm.running_var is not None],
    )


def main() -> None:
    """Make images and print what the losses did and what the images are good for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--bits", type=int, default=3, help="of weights and activations, 2 to 8")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="64 images, 60 iterations")
    options = parser.parse_args()
    count, iterations = (64, 60) if options.small else (options.images, options.iterations)

    torch.manual_seed(options.seed)
    network = load_digits_network().requires_grad_(False)
    layers = record(network)
    images = torch.randn(count, 1, 8, 8, requires_grad=True)
    labels = torch.arange(count) % 10
    optimizer = torch.optim.Adam([images], lr=0.1)
    for iteration in range(iterations):
        logits = network(images)
        match = statistics_loss(layers)
        label, _ = hc.hard_sample_loss(logits, labels, DIFFICULTY)
        optimizer.zero_grad()
        (match + LABEL_WEIGHT * label).backward()
        optimizer.step()
        if iteration in (0, iterations - 1):
            right = (logits.argmax(1) == labels).float().mean()
            print(
                f"iteration {iteration:4d}: statistics {match.item():.4f}, labels "
                f"{label.item():.4f}, as labelled {100 * right.item():.0f} %"
            )

    test = load_images("digits", spec=input_spec("digits"))
    print(f"full precision                  {evaluate(load_digits_network(), test):6.2f} %")
    for name, source in (("images", images.detach()), ("noise ", torch.randn_like(images))):
        student = hc.quantize(load_digits_network(), options.bits, options.bits)
        hc.calibrate(student, [source])
        print(f"{options.bits} bits, ranges of {name}         {evaluate(student, test):6.2f} %")
        hc.shrink_ranges(student, source)
        print(f"{options.bits} bits, shrunk for {name}        {evaluate(student, test):6.2f} %")


if __name__ == "__main__":
    main()
