"""What it costs to keep synthetic pixels in what bytes can hold: statistics with and without projection.

A line per choice: gaps of means and variances averaged over the BatchNorm layers
(``hast_cuda.analysis.statistic_gaps``), of the images as made and after rounding to bytes, and the share
of pixels that lay outside as made.

    python bench/bench_displayable.py --model resnet20_cifar10 --weights weights/resnet20_cifar10.safetensors
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from statistics import fmean

import torch
from provenance import provenance
from torch import nn

from hast_cuda.analysis import statistic_gaps
from hast_cuda.calibration import to_normalized, to_pixels
from hast_cuda.calibration.make import default_config
from hast_cuda.cli.network import find
from hast_cuda.data import InputSpec
from hast_cuda.synthesis import SynthesisConfig, synthesize
from hast_cuda.teachers import input_spec, load_teacher

HEAD = "| pixels | outside | mean, as made | variance, as made | mean, bytes | variance, bytes |"


def line(network: nn.Module, spec: InputSpec, config: SynthesisConfig, seed: int, device: str) -> str:
    """A line of the table."""
    made = synthesize(network, spec, config, seed=seed, device=device).images
    low, high = (torch.tensor(end).view(1, -1, 1, 1) for end in spec.displayable)
    outside = ((made < low) | (made > high)).float().mean()
    cells = ["projected" if config.lowest else "free", f"{100 * outside:.1f} %"]
    for images in (made, to_normalized(to_pixels(made, spec), spec)):
        gaps = statistic_gaps(network, images, device=device).values()
        cells += [f"{fmean(g.mean for g in gaps):.3f}", f"{100 * fmean(g.variance for g in gaps):.1f} %"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table and where it was made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20_cifar10")
    parser.add_argument("--weights")
    parser.add_argument("--normalization")
    parser.add_argument("--num-images", type=int, default=128)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    flags = parser.parse_args()
    spec = input_spec(flags.model, normalization=flags.normalization)
    network = load_teacher(flags.model, weights=None if flags.weights is None else find(flags.weights))
    where = provenance(torch.device(flags.device))
    print(f"{where['device']}, commit {where['commit']}, seed {flags.seed}: {where['command']}")
    print(HEAD)
    print("|---" * 6 + "|")
    for displayable in (False, True):
        config = default_config(spec, flags.num_images, displayable=displayable)
        print(line(network, spec, replace(config, iterations=flags.iterations), flags.seed, flags.device), flush=True)


if __name__ == "__main__":
    main()
