"""Networks for the passes that need no data: what can be folded and paired, and what cannot."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from networks import draw_batch_norms
from pytorchcv.model_provider import get_model
from torch import Tensor, nn


def unit(channels: int, out: int, activation: nn.Module | None, **options: int) -> nn.Sequential:
    """Convolution without bias, BatchNorm and perhaps an activation."""
    layers = [nn.Conv2d(channels, out, bias=False, **options), nn.BatchNorm2d(out)]
    return nn.Sequential(*layers, *([activation] if activation is not None else []))


class Inverted(nn.Module):
    """Two inverted residual blocks with ReLU6 and a 1x1 classifier without bias, as MobileNetV2."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(3, 6, nn.ReLU6(inplace=True), kernel_size=3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                unit(6, 12, nn.ReLU6(inplace=True), kernel_size=1),
                unit(12, 12, nn.ReLU6(inplace=True), kernel_size=3, padding=1, groups=12),
                unit(12, 6, None, kernel_size=1),
            )
            for _ in range(2)
        )
        self.pool = nn.AvgPool2d(8)
        self.output = nn.Conv2d(6, 5, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 8, 8] -> [N, 5]."""
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        x = self.output(self.pool(x))
        return x.view(x.size(0), -1)


def inverted() -> nn.Module:
    """With BatchNorm statistics as after training."""
    network = Inverted()
    draw_batch_norms(network)
    return network


class Odd(nn.Module):
    """Functional and reused ReLU, grouped convolutions, and everything that must be left alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first_norm = nn.BatchNorm2d(3)  # no convolution in front
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.convs = nn.ModuleList(
            nn.Conv2d(8, 8, 3, padding=1, groups=g, bias=b)
            for g, b in ((1, True), (2, False), (8, True), (1, False), (4, True), (1, True))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(6))
        self.lone = nn.BatchNorm2d(8, affine=False)
        self.relu = nn.ReLU(inplace=True)  # used in several places
        self.hidden = nn.Linear(32, 6)
        self.output = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 8, 8] -> [N, 5]."""
        x = self.relu(self.norms[0](self.stem(self.first_norm(x))))
        y = F.relu(self.norms[1](self.convs[0](x)))
        y = self.norms[2](self.convs[1](y)).relu()
        y = self.relu(self.norms[3](self.convs[2](y)))
        x = x + self.lone(self.convs[3](y))
        shared = self.convs[4](x)  # two users: its BatchNorm stays
        x = self.norms[4](shared) + shared
        z = self.convs[5](F.relu6(x))  # called twice, like its BatchNorm
        z = self.norms[5](z)
        x = self.relu(self.norms[5](self.convs[5](z)))
        x = F.max_pool2d(x, 4).flatten(1)
        result: Tensor = self.output(self.relu(self.hidden(x)))
        return result


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet20": (lambda: get_model("resnet20_cifar10", pretrained=False), 32),
    "inverted": (Inverted, 8),
    "odd": (Odd, 8),
}


def randomize(network: nn.Module) -> nn.Module:
    """BatchNorm statistics and parameters of its own, some gamma negative; in eval mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.4)
                with torch.no_grad():
                    module.weight[0] *= -1
    return network.eval()


def build(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor]:
    """The network, the same at every call, and a batch for it."""
    torch.manual_seed(5)
    make, size = NETWORKS[name]
    return randomize(make()).to(dtype), torch.randn(2, 3, size, size, dtype=dtype)


def kinds(network: nn.Module, kind: type[nn.Module]) -> list[str]:
    """Names of the modules of a class."""
    return [name for name, module in network.named_modules() if isinstance(module, kind)]
