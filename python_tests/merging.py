"""Networks with everything that merging may trip over, and what became of their BatchNorms."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from networks import draw_batch_norms
from pytorchcv.model_provider import get_model
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from hast_cuda.merged import FusedBatchNorm2d


class Odd(nn.Module):
    """Everything a finder of patterns may trip over; [N, 3, 16, 16] -> logits [N, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(7))
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1, groups=g, bias=False) for g in (1, 2, 8, 4, 1, 1))
        self.relu = nn.ReLU(inplace=True)  # used in several places
        self.scale = nn.Conv2d(8, 8, 1)
        self.output = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Reused ReLU, functional ReLU, BatchNorm alone, grouped convolutions, odd sums."""
        x = self.relu(self.norms[0](self.stem(x)))
        y = F.relu6(self.norms[1](self.convs[0](x)))  # functional
        y = self.norms[2](self.convs[1](y))  # nothing behind it but a sum
        x = torch.add(y, x)
        y = self.norms[3](self.convs[2](x))
        y += x  # in place, the BatchNorm on the left
        y = y.relu()
        z = x + self.norms[4](self.convs[3](y))  # the BatchNorm on the right
        z = F.leaky_relu(z, 0.1)
        gate = torch.sigmoid(self.scale(F.adaptive_avg_pool2d(z, 1)))
        u = self.norms[5](self.convs[4](z))
        u = self.relu(u + gate)  # broadcast, and no residual of the same shape
        v = self.norms[6](self.convs[5](u))
        w = F.relu(v) + v * 0.1  # the BatchNorm's output is used twice
        # no maximum: behind quantizers it has ties, which rounding decides
        result: Tensor = self.output(F.avg_pool2d(w, 2).mean((2, 3)))
        return result


def mobilenet(name: str) -> nn.Module:
    network = get_model(name, pretrained=False, num_classes=7)
    network.features.final_pool = nn.AdaptiveAvgPool2d(1)
    return network


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet20_cifar10": (lambda: get_model("resnet20_cifar10", pretrained=False), 32),
    "torchvision": (lambda: ResNet(BasicBlock, [1, 1, 1, 1], num_classes=6), 32),
    "mobilenet": (lambda: mobilenet("mobilenet_wd4"), 64),
    "mobilenetv2": (lambda: mobilenet("mobilenetv2_wd4"), 64),
    "odd": (Odd, 16),
}


def build(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor]:
    """A network in eval mode with statistics of its own, and a batch."""
    maker, size = NETWORKS[name]
    torch.manual_seed(3)
    network = maker().eval()
    draw_batch_norms(network)
    return network.to(dtype), torch.randn(4, 3, size, size, dtype=dtype)


def fused(network: nn.Module) -> list[FusedBatchNorm2d]:
    return [m for m in network.modules() if isinstance(m, FusedBatchNorm2d)]
