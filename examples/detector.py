"""Quantization of a detector, which classifies nothing, and a calibration set of it for other programs.

torchvision's FCOS gives scores, boxes and centres of every place, in a dict, before boxes are chosen: that is what
is quantized. Images match the statistics of its BatchNorm layers alone, labels have no part in it, and the
quantized network is judged by the noise in all that it gives. With the weights that you have (of torchvision's
``fcos_resnet50_fpn``, a state dict)::

    python examples/detector.py --weights fcos_resnet50_fpn_coco.pth --size 320 --out runs/fcos --device cuda

``--small`` takes seconds and downloads nothing: a backbone of three blocks with random weights, whose statistics are
those of noise with the spectrum of photographs. Its figures say that the parts fit together. From the command line:
``hast-cuda quantize --model examples/detector.py:small --method zeroq --image-size 32 --normalization imagenet``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn
from torchvision.models.detection import fcos_resnet50_fpn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.resnet import BasicBlock, ResNet

import hast_cuda as hc
from hast_cuda.analysis import layers_to_keep
from hast_cuda.data.input_spec import NORMALIZATIONS
from hast_cuda.finetune import output_noise
from hast_cuda.synthesis import SynthesisConfig
from hast_cuda.synthesis.draws import draw_noise
from hast_cuda.teachers import load_weights

SMALL = 32  # pixels


class Detector(nn.Module):
    """Backbone and head, without anchors and what chooses boxes."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """float32 [N, 3, H, W] -> ``cls_logits`` [N, places, classes], ``bbox_regression``, ``bbox_ctrness``."""
        found: dict[str, Tensor] = self.head(list(self.backbone(x).values()))
        return found


def photographs(count: int, size: int, seed: int) -> Tensor:
    """Noise with their spectrum, float32 [N, 3, H, W]."""
    return draw_noise(SynthesisConfig(noise="natural"), (count, 3, size, size), seed, 0)


def fcos(classes: int = 91) -> nn.Module:
    """torchvision's, with BatchNorm layers that have their statistics."""
    network = fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=classes)
    return Detector(network.backbone, network.head)


def small() -> nn.Module:
    """A detector with random weights whose statistics are those of noise."""
    torch.manual_seed(0)
    maps = {"layer1": "0", "layer2": "1", "layer3": "2"}
    body = ResNet(BasicBlock, [1, 1, 1, 1])
    backbone = BackboneWithFPN(body, maps, [64, 128, 256], 64, norm_layer=nn.BatchNorm2d)
    network = Detector(backbone, FCOSHead(64, num_anchors=1, num_classes=5, num_convs=1)).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the average over all batches
    with torch.no_grad():
        for seed in range(2):
            network(photographs(32, SMALL, seed))
    return network.eval()


def main() -> None:
    """Quantize, write a calibration set, and print what both are like."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="state dict or safetensors; no download")
    parser.add_argument("--size", type=int, default=320, help="of the images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="folder for the set; by default nothing is kept")
    parser.add_argument("--small", action="store_true", help="random weights, seconds")
    options = parser.parse_args()
    if options.small:
        network, size, count, iterations = small(), SMALL, 16, 20
    elif options.weights is None:
        parser.error("give --weights FILE, the pretrained network (or --small)")
    else:
        network, size, count, iterations = fcos(), options.size, 64, 200
        load_weights(network, options.weights)
    spec = hc.InputSpec(3, size, size, 0, *NORMALIZATIONS["imagenet"])  # no classes
    with tempfile.TemporaryDirectory() as folder:
        place = (options.out or Path(folder)) / "set"
        given = {"seed": options.seed, "device": options.device}
        made = hc.calibration_set(network, spec, place, num_images=count, iterations=iterations, **given)
    gaps = made.manifest["statistic_gaps"]["bytes"].values()
    print(f"calibration set of {count} images, variances off by {100 * fmean(g['variance'] for g in gaps):.0f} %")
    images = hc.calibration.to_normalized(made.pixels, spec).to(options.device)
    ready = hc.data.Images(images.cpu(), made.labels)
    for weights in (8, 4):
        bits = hc.Bits(weights, 8, "all")
        done = hc.zero_shot_quantize(network, spec, bits, method="zeroq", images=ready, progress=False, **given)
        judged = photographs(count, size, 99).to(options.device)
        for name, share in output_noise(network.to(options.device), done.student, judged).items():
            print(f"W{weights}A8 noise in {name:<16}{100 * share:8.3f} %")
    found = hc.sensitivity(network, images[:2], bits=(4, 8), placement="all", device=options.device)
    for layer in layers_to_keep(found, 3):
        print(f"keep {layer.name} at 8 bits: {100 * layer.share:.0f} % of what all weights lose at 4 bits")


if __name__ == "__main__":
    main()
