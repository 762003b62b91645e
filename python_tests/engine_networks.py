"""Small networks with what the engine's planner has to understand; [N, 3, 16, 16] -> [N, 5]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hast_cuda as hc

SHAPE, CLASSES = (3, 16, 16), 5


def conv(inp: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution and BatchNorm."""
    layer = nn.Conv2d(inp, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out))


class Residual(nn.Module):
    """A stem with maximum pooling, a block with a strided shortcut, one without; ReLU modules."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pool = nn.Sequential(conv(3, 8), nn.ReLU(inplace=True)), nn.MaxPool2d(3, 2, 1)
        self.a, self.b, self.short = nn.Sequential(conv(8, 12, 3, 2), nn.ReLU()), conv(12, 12), conv(8, 12, 1, 2)
        self.c, self.d = nn.Sequential(conv(12, 12), nn.ReLU()), conv(12, 12)
        self.first, self.second, self.output = nn.ReLU(), nn.ReLU(inplace=True), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x))
        x = self.first(self.b(self.a(x)) + self.short(x))
        x = self.second(x + self.d(self.c(x)))
        result: Tensor = self.output(x.mean((2, 3)))
        return result


class Bottlenecks(nn.Module):
    """MobileNetV2's blocks: ReLU6, depthwise convolutions, sums of linear outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8, 3, 2), nn.ReLU6(inplace=True))
        self.block = nn.Sequential(
            conv(8, 24, 1), nn.ReLU6(inplace=True), conv(24, 24, 3, 1, 24), nn.ReLU6(inplace=True), conv(24, 8, 1)
        )
        self.head, self.output = nn.Sequential(conv(8, 16, 1), nn.ReLU6()), nn.Conv2d(16, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.head(x + self.block(x))
        return self.output(F.adaptive_avg_pool2d(x, 1)).view(x.size(0), -1)


class OptionA(nn.Module):
    """A shortcut without parameters, functional ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv(3, 8), conv(8, 16, 3, 2), conv(16, 16)
        self.output = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.b(F.relu(self.a(x)))
        x = F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)))
        return self.output(F.avg_pool2d(x, x.size()[3]).flatten(1))


class Gates(nn.Module):
    """Squeeze and excitation, hard swish as a module and written out, swish, leaky ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.hard, self.next = conv(3, 8, 3, 2), nn.Hardswish(), conv(8, 8, 3, 1, 8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.fc, self.gate, self.last = nn.Linear(8, 4), nn.Linear(4, 8), conv(8, 8)
        self.output = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.hard(self.stem(x))
        x = self.next(x)
        x = x * F.relu6(x + 3.0) / 6.0
        s = F.adaptive_avg_pool2d(x, 1)
        x = x * F.hardsigmoid(self.excite(F.relu(self.squeeze(s))))
        g = torch.sigmoid(self.gate(F.leaky_relu(self.fc(x.mean((2, 3))), 0.1)))
        x = x * g[:, :, None, None].expand_as(x)
        x = self.last(x)
        x = x * torch.sigmoid(x)
        return self.output(x.mean((2, 3)))


class Joined(nn.Module):
    """Branches that share a grid, one of them pooled; BatchNorm in front of a convolution; padded means."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Sequential(conv(3, 6), nn.ReLU()), conv(6, 6), conv(6, 6, 1)
        self.acts, self.pool = nn.ModuleList([nn.ReLU(), nn.ReLU()]), nn.MaxPool2d(3, 1, 1)
        self.norm, self.mean = nn.Sequential(nn.BatchNorm2d(12), nn.ReLU()), nn.AvgPool2d(3, 2, 1)
        self.last, self.output = nn.Sequential(conv(12, 8), nn.ReLU()), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([self.acts[0](self.a(x)), self.pool(self.acts[1](self.b(x)))], 1)
        return self.output(self.last(self.mean(self.norm(x))).mean((2, 3)))


class Dense(nn.Module):
    """BatchNorm in front of convolutions, joined channels, average pooling with padding."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1, bias=False)
        self.units = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(n), nn.ReLU(), nn.Conv2d(n, 4, 3, 1, 1, bias=False)) for n in (8, 12)
        )
        self.last = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU())
        self.pool, self.output = nn.AvgPool2d(3, 2, 1), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for unit in self.units:
            x = torch.cat([x, unit(x)], 1)
        return self.output(self.pool(self.last(x)).mean((2, 3)))


class Shuffled(nn.Module):
    """Split, joined and shuffled channels; grouped convolutions; fire's two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = nn.Sequential(conv(3, 8, 3, 2), nn.ReLU()), nn.Sequential(conv(4, 4), nn.ReLU())
        self.group, self.act = conv(8, 8, 1, 1, 4), nn.ReLU()
        self.left, self.right, self.last = conv(8, 6, 1), conv(8, 6), conv(12, 12, 1)
        self.output = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.stem(x).chunk(2, 1)
        x = torch.cat([a, self.branch(b)], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        x = self.act(self.group(x))
        x = torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1)
        return self.output(F.relu(self.last(x)).mean((2, 3)))


class Flattened(nn.Module):
    """Pools that round up, padding of its own, a linear layer on a map, BatchNorm1d, constants."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, 2), nn.Conv2d(6, 6, 3, padding=1)
        self.acts, self.pool = nn.ModuleList([nn.ReLU(), nn.ReLU(), nn.ReLU()]), nn.MaxPool2d(3, 2, ceil_mode=True)
        self.fc, self.norm, self.drop = nn.Linear(6 * 4 * 4, 10, bias=False), nn.BatchNorm1d(10), nn.Dropout()
        self.output = nn.Linear(10, CLASSES)
        self.register_buffer("mean", torch.tensor([0.1, -0.2, 0.3]).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad((x - self.mean) / 1.5, (0, 1, 0, 1))
        x = self.acts[0](self.first(x))
        x = self.acts[1](self.pool(self.second(x)))
        x = self.drop(self.acts[2](self.norm(self.fc(x.flatten(1)))))
        result: Tensor = self.output(x)
        return result


def pictures(count: int, seed: int) -> Tensor:
    """Images whose brightness and contrast differ, so that their means do too."""
    random = torch.Generator().manual_seed(seed)
    noise, contrast, colour = (torch.randn(count, *shape, generator=random) for shape in (SHAPE, (1, 1, 1), (3, 1, 1)))
    return noise * contrast.exp() + 2 * colour


def lively(network: nn.Module) -> nn.Module:
    """In eval mode, with the statistics of :func:`pictures`, BatchNorm factors of both signs, large layers."""
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, -1, 2)
            nn.init.normal_(module.bias, 0, 0.5)
        elif isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.bias is not None):
            module.weight.data *= 3
    with torch.no_grad():
        network.train()(pictures(64, 4))
    return network.eval()


def student_of(build: Callable[[], nn.Module], *bits: int, **options: Any) -> nn.Module:
    """Of placement "integer", calibrated."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        teacher = lively(build())
    student = hc.quantize(teacher, *bits, **{"placement": "integer", **options})
    return hc.calibrate(student, [pictures(16, 2), pictures(16, 5)]).eval()
