"""Networks drawn at random: modules, functions and methods, in place, shared, in branches, joined."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, SIZE, CLASSES = 4, (3, 10, 10), 5
_MODULES: dict[str, Any] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "leaky": lambda inplace: nn.LeakyReLU(0.1, inplace),
    "gelu": lambda _: nn.GELU(),
    "prelu": lambda _: nn.PReLU(WIDTH),
}
_CALLS: dict[str, Any] = {
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "F.relu6": F.relu6,
    "F.silu": F.silu,
    "relu()": lambda x: x.relu(),
    "relu_()": lambda x: x.relu_(),
    "clamp": lambda x: x.clamp(min=0),
    "x * sigmoid(x)": lambda x: x * torch.sigmoid(x),
    "max_pool2d": lambda x: F.max_pool2d(x, 3, 1, 1),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "pad and cut": lambda x: F.pad(x, (1, 0, 1, 0))[:, :, :-1, :-1],
    "shuffle": lambda x: x.view(x.size(0), 2, WIDTH // 2, x.size(2), x.size(3)).transpose(1, 2).reshape(x.shape),
    "chunk and join": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "dropout": lambda x: F.dropout(x, 0.5, False),
    "scaled": lambda x: x * 0.5 + 0.25,
}
_PAIRS: dict[str, Any] = {
    "x + y": lambda x, y: x + y,
    "x += y": lambda x, y: x.__iadd__(y),
    "torch.add": torch.add,
    "x - y": lambda x, y: x - y,
    "gate": lambda x, y: x * torch.sigmoid(y.mean((2, 3), keepdim=True)),
    "gate pooled": lambda x, y: x * F.hardsigmoid(F.adaptive_avg_pool2d(y, 1)),
    "maximum": torch.maximum,
}


class Program(nn.Module):
    """Steps over maps [N, WIDTH, H, W], of which each adds one; the last is classified.

    A step is its kind, the maps that it reads (from the last one backwards), and a module's index where it calls one.
    """

    def __init__(self, steps: list[tuple[str, int, int, int]], modules: list[nn.Module], ending: str) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, WIDTH, 3, bias=False), nn.BatchNorm2d(WIDTH))
        self.parts, self.steps, self.ending = nn.ModuleList(modules), steps, ending
        self.output = nn.Conv2d(WIDTH, CLASSES, 1) if ending == "conv" else nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> logits [N, CLASSES]."""
        maps = [self.stem(x)]
        for kind, first, second, part in self.steps:
            a, b = maps[-1 - first % len(maps)], maps[-1 - second % len(maps)]
            if kind == "part":
                maps.append(self.parts[part](a))
            elif kind == "joined":
                maps.append(self.parts[part](torch.cat([a, b], 1)))
            elif kind in _CALLS:
                maps.append(_CALLS[kind](a))
            else:
                maps.append(_PAIRS[kind](a, b))
        y = maps[-1]
        if self.ending == "conv":
            return self.output(F.adaptive_avg_pool2d(y, 1)).flatten(1)
        return self.output(y.mean((2, 3)) if self.ending == "mean" else F.adaptive_avg_pool2d(y, 1).view(y.size(0), -1))


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Networks of up to eight steps, some of which call a module again."""
    steps: list[tuple[str, int, int, int]] = []
    modules: list[nn.Module] = []
    inputs: list[int] = []
    for _ in range(draw(st.integers(1, 8))):
        first, second = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        kind = draw(st.sampled_from(["conv", "norm", "module", "module", "call", "pair", "joined", "again"]))
        if kind == "again":
            again = [index for index, width in enumerate(inputs) if width == WIDTH]
            if not again:
                continue
            steps.append(("part", first, second, draw(st.sampled_from(again))))
        elif kind in ("conv", "norm", "module", "joined"):
            steps.append(("joined" if kind == "joined" else "part", first, second, len(modules)))
            inputs.append(2 * WIDTH if kind == "joined" else WIDTH)
            modules.append(draw(_module(kind)))
        else:
            steps.append((draw(st.sampled_from(list(_CALLS if kind == "call" else _PAIRS))), first, second, 0))
    return Program(steps, modules, draw(st.sampled_from(["conv", "mean", "view"])))


@st.composite
def _module(draw: st.DrawFn, kind: str) -> nn.Module:
    if kind == "joined":
        return nn.Conv2d(2 * WIDTH, WIDTH, 1)
    if kind == "norm":
        return nn.BatchNorm2d(WIDTH)
    if kind == "module":
        return _MODULES[draw(st.sampled_from(list(_MODULES)))](draw(st.booleans()))
    groups = draw(st.sampled_from([1, WIDTH]))
    conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=groups, bias=draw(st.booleans()))
    parts: list[nn.Module] = [conv]
    if draw(st.booleans()):
        parts.append(nn.BatchNorm2d(WIDTH))
    if draw(st.booleans()):
        parts.append(_MODULES[draw(st.sampled_from(list(_MODULES)))](draw(st.booleans())))
    return nn.Sequential(*parts)
