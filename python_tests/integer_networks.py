"""Networks with everything that placement="integer" has a rule for, and their students."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from engine_networks import CLASSES, Dense, Flattened, conv, lively, pictures
from torch import Tensor, nn
from torch.nn import functional as F

import hast_cuda as hc
from hast_cuda.nn import quantization_table


class Unit(nn.Module):
    """A residual unit; without ReLU behind the sum if ``linear``, functional if ``functional``."""

    def __init__(self, inp: int, out: int, stride: int = 1, *, linear: bool = False, functional: bool = False) -> None:
        super().__init__()
        self.first, self.second = conv(inp, out, 3, stride), conv(out, out)
        self.short = conv(inp, out, 1, stride) if stride > 1 else None
        self.inner, self.outer = nn.ReLU6() if linear else nn.ReLU(inplace=True), nn.ReLU()
        self.linear, self.functional = linear, functional

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = self.second(F.relu(y) if self.functional else self.inner(y))
        y += x if self.short is None else self.short(x)
        if self.linear:
            return y
        return F.relu(y) if self.functional else self.outer(y)


class Net(nn.Module):
    """A stem, units and a classifier."""

    def __init__(self, **kind: bool) -> None:
        super().__init__()
        stem: list[nn.Module] = [conv(3, 8), *([] if kind else [nn.ReLU()])]
        self.stem, self.kind = nn.Sequential(*stem), kind
        self.units = nn.Sequential(Unit(8, 8, **kind), Unit(8, 12, 2, **kind), Unit(12, 12, **kind))
        self.pool, self.output = nn.AdaptiveAvgPool2d(1), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x) if self.kind.get("functional") else x
        result: Tensor = self.output(self.pool(self.units(x)).flatten(1))
        return result


class Joined(nn.Module):
    """Two branches of modules joined, one of them pooled on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Sequential(conv(3, 6), nn.ReLU()), conv(6, 6), conv(6, 6, 1)
        self.acts, self.pool = nn.ModuleList([nn.ReLU(), nn.ReLU()]), nn.MaxPool2d(3, 1, 1)
        self.last, self.output = conv(12, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([self.acts[0](self.a(x)), self.pool(self.acts[1](self.b(x)))], 1)
        return self.output(self.last(x).mean((2, 3)))


class Mixed(Joined):
    """The same with a branch that ends in BatchNorm."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([self.acts[0](self.a(x)), self.b(x)], 1)
        return self.output(self.last(x).mean((2, 3)))


class Late(Joined):
    """The same with functional ReLU, so that the quantizer stands behind the concatenation."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([F.relu(self.a(x)), F.relu(self.b(x))], 1)
        return self.output(self.last(x).mean((2, 3)))


class Growing(nn.ModuleDict):
    """A block that calls what is registered in it, whatever that is."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.values():
            x = torch.cat([x, layer(x)], 1)
        return x * 0.5


class Listed(nn.Sequential):
    """Containers with a forward of their own."""

    def __init__(self) -> None:
        blocks = Growing({"a": conv(6, 4), "b": conv(10, 4)})
        last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))
        super().__init__(conv(3, 6), nn.ReLU(), blocks, conv(14, 8), nn.ReLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


def residual() -> Net:
    return Net()


def linear() -> Net:
    return Net(linear=True)


def functional() -> Net:
    return Net(functional=True)


BUILDS = [residual, linear, functional, Dense, Joined, Mixed, Late, Flattened, Listed]


def made(build: Callable[[], nn.Module], **options: Any) -> tuple[nn.Module, Any]:
    """A network, and its calibrated student."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        teacher = lively(build())
    student = hc.quantize(teacher, **{"placement": "integer", **options})
    return teacher, hc.calibrate(student, [pictures(16, 2), pictures(16, 5)]).eval()


def places(student: nn.Module) -> dict[str, int]:
    """Rows of the table that have a quantizer: "module: what", and bits."""
    return {f"{row.name}: {row.note}": row.act_bits for row in quantization_table(student).rows if row.act_bits}
