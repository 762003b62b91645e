"""The embedded demo: a small trained network and real handwritten digits. Needs no network."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from hast_cuda.demo.digits import load_digit_images
from hast_cuda.demo.network import DigitsResNet

__all__ = ["WEIGHTS", "DigitsResNet", "load_digit_images", "load_digits_network"]

WEIGHTS = Path(__file__).parent / "digits.safetensors"


def load_digits_network() -> DigitsResNet:
    """The trained network in eval mode: float32 [N, 1, 8, 8] normalised -> logits [N, 10]."""
    network = DigitsResNet()
    network.load_state_dict(load_file(WEIGHTS))
    return network.eval()
