"""Zero-shot quantization of a torchvision network.

With ``--weights`` any classifier of torchvision whose layers have BatchNorm, from the file that you
have (a state dict as torchvision publishes it, or safetensors); ``--data`` names labelled images
to report accuracy on, never to train on::

    python examples/torchvision_network.py --model resnet18 --weights resnet18-f37072fd.pth \
        --data imagenet/val --out runs/resnet18 --device cuda

``--small`` is a check that takes seconds and downloads nothing: its network is torchvision's
shufflenet_v2_x0_5 for ten classes, trained here for a few epochs on scikit-learn's digits at 16x16
pixels. Its figures say that the parts fit together, not what the method reaches on ImageNet. Needs
``pip install 'hast_cuda[demo]'``.

Blocks of torchvision's ResNets call one ReLU module in two places, which one quantizer could not
serve: ``placement="all"`` quantizes the inputs of layers instead. The first and the last layer keep
8 bits.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import get_model

import hast_cuda as hc
from hast_cuda.data import load_images
from hast_cuda.data.input_spec import NORMALIZATIONS, InputSpec
from hast_cuda.methods import change, recipe
from hast_cuda.run import Bits, zero_shot_quantize
from hast_cuda.teachers import input_spec, load_weights


class AsColour(nn.Module):
    """Digits [N, 1, 8, 8] for a network of colour images: enlarged to 16x16, three channels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """float32 [N, 1, 8, 8] -> logits."""
        enlarged = F.interpolate(x, scale_factor=2.0).expand(-1, 3, -1, -1)
        logits: Tensor = self.network(enlarged)
        return logits


def trained_on_digits(epochs: int) -> nn.Module:
    """A small network of torchvision with weights worth quantizing."""
    network = AsColour(get_model("shufflenet_v2_x0_5", num_classes=10))
    spec = input_spec("digits")
    (images, labels), *_ = load_images("digits", spec=spec, split="train").batches(10_000)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(len(images))[:1152].split(64):
            optimizer.zero_grad()
            F.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
        schedule.step()
    return network.eval()


def main() -> None:
    """Quantize and print the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", help="a name that get_model knows")
    parser.add_argument("--weights", type=Path, help="state dict or safetensors; no download")
    parser.add_argument("--data", help="labelled images: ImageFolder or .npz")
    parser.add_argument("--bits", type=int, default=4, help="of weights and activations, 2 to 8")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", help="run directory; by default nothing is kept")
    parser.add_argument("--small", action="store_true", help="a network for digits, seconds")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    budget: dict[str, Any] = {}
    data: str | None = options.data
    if options.small:
        network, spec, data = trained_on_digits(epochs=5), input_spec("digits"), "digits"
        budget = {
            "synthesis.num_images": 64,
            "synthesis.batch_size": 64,
            "synthesis.iterations": 25,
            "reconstruction.iterations": 20,
            "finetune.iterations": 8,
            "finetune.batch_size": 32,
            "finetune.calibration_updates": 8,
            "finetune.evaluations": 1,
        }
    elif options.weights is None:
        parser.error("give --weights FILE, the pretrained network (or --small)")
    else:
        network = get_model(options.model)
        load_weights(network, options.weights)
        spec = InputSpec(3, 224, 224, 1000, *NORMALIZATIONS["imagenet"], resize=256)
    test = None if data is None else load_images(data, spec=spec)
    layers = [n for n, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    eight = {name: hc.Override(8, 8) for name in (layers[0], layers[-1])}
    bits = Bits(options.bits, options.bits, "all", eight)
    dataset = "cifar10" if options.small else "imagenet"
    done = zero_shot_quantize(
        network,
        (spec.channels, spec.height, spec.width),
        bits,
        seed=options.seed,
        test=test,
        recipe=change(recipe("hast", "default", dataset), budget),
        out=options.out,
        device=options.device,
    )
    print(hc.quantization_table(done.student))
    for name in ("full_precision", "rounded", "start_of_finetuning", "quantized"):
        if test is not None:
            print(f"{name:<20}{done.result[name]:6.2f} %")


if __name__ == "__main__":
    main()
