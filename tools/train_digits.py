"""Trains the embedded digits network: ``python tools/train_digits.py --out digits.safetensors``.

About half a minute on two CPU cores. The same seed, machine and torch version give the same file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import sklearn
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from hast_cuda.data import evaluate, load_images
from hast_cuda.data.image_set import DIGITS
from hast_cuda.teachers import input_spec
from hast_cuda.teachers.digits import DigitsResNet

BATCH_SIZE = 64
LEARNING_RATE = 0.1
# Largest change of each image, uniform on both sides of none.
ROTATION, ZOOM, SHEAR = 0.20, 0.12, 0.15  # radians; ratio; ratio
SHIFT = 0.2  # of half the image: 0.8 pixels


def distort(images: Tensor, background: float, generator: torch.Generator) -> Tensor:
    """A small random affine map per image; what comes in from outside is ``background``.

    Args:
        images: float [N, C, H, W].
        background: value of an empty pixel, after normalisation.
        generator: on the CPU.
    """

    def uniform(bound: float) -> Tensor:
        return (2 * torch.rand(len(images), generator=generator) - 1) * bound

    angle, scale, shear = uniform(ROTATION), 1 + uniform(ZOOM), uniform(SHEAR)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = [torch.stack([cos, shear - sin, uniform(SHIFT)], 1)]
    rows += [torch.stack([sin, cos, uniform(SHIFT)], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    # grid_sample pads with zeros, so empty must be zero while it works.
    return F.grid_sample(images - background, grid, align_corners=False) + background


def train(seed: int, epochs: int) -> DigitsResNet:
    """A DigitsResNet trained on the training split only, on the CPU, in eval mode.

    Raises:
        ValueError: ``epochs`` below 1.
        ImportError: scikit-learn is not installed.
    """
    if epochs < 1:
        raise ValueError(f"epochs={epochs} must be at least 1")
    spec = input_spec(DIGITS)
    (images, labels), *_ = load_images(DIGITS, spec=spec, split="train").batches(10_000)
    background = -spec.mean[0] / spec.std[0]
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DigitsResNet().train()
    # No weight decay: it narrows the weights' ranges, which would hide what rounding costs.
    optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, momentum=0.9, nesterov=True)
    steps = len(images) // BATCH_SIZE
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=epochs * steps)
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for batch in order[: steps * BATCH_SIZE].split(BATCH_SIZE):
            logits = network(distort(images[batch], background, generator))
            optimizer.zero_grad()
            F.cross_entropy(logits, labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, measures on the held-out split and writes weights with metadata."""
    parser = argparse.ArgumentParser(prog="python tools/train_digits.py", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help=".safetensors file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args(arguments)
    out: Path = options.out
    if out.suffix != ".safetensors" or not out.absolute().parent.is_dir():
        parser.error(f"--out {out} must be a .safetensors file in an existing folder")
    network = train(options.seed, options.epochs)
    accuracy = evaluate(network, load_images(DIGITS, spec=input_spec(DIGITS)))
    training = {
        "network": "hast_cuda.teachers.digits.DigitsResNet",
        "data": "UCI optical recognition of handwritten digits, as in scikit-learn (CC BY 4.0)",
        "held_out_top1_percent": round(accuracy, 2),
        "seed": options.seed,
        "epochs": options.epochs,
        "torch": str(torch.__version__),
        "scikit_learn": str(sklearn.__version__),
    }
    state = {k: v.contiguous() for k, v in network.state_dict().items()}
    # One entry: safetensors writes several in random order, and the same run must give one file.
    save_file(state, str(out), metadata={"training": json.dumps(training)})
    print(f"{out}: top-1 {accuracy:.2f} % on the held-out digits")


if __name__ == "__main__":
    main()
