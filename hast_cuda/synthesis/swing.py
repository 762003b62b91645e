"""Strided convolutions whose grid moves at random, so that every pixel is seen alike (Genie)."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from hast_cuda.loops.seeding import generator
from hast_cuda.networks.swap import swap_modules


def draw_places(reaches: Tensor, iterations: int, random: torch.Generator) -> Tensor:
    """[iterations, convolutions, 2] int64, each from 0 to twice its reach [convolutions, 2]."""
    draws = torch.rand(iterations, *reaches.shape, generator=random)
    return (draws * (2 * reaches + 1)).long()


def swing(x: Tensor, place: Tensor, reach: tuple[int, int]) -> Tensor:
    """Pad ``x`` [N, C, H, W] by ``reach`` on each side, by reflection, and crop it at ``place``.

    ``place`` [2] int64 is the corner of the [H, W] that are kept, ``reach`` itself the image as it
    is. A map that has no ``reach`` pixels to reflect moves by as many as it has.
    """
    # One product per axis, as crops have: reflection_pad2d adds up its gradient on CUDA in no fixed
    # order, and a place that the device holds can be changed between replays of a CUDA graph.
    for axis, size in enumerate(x.shape[-2:]):
        if reach[axis]:
            moves = _moves(size, reach[axis], x.dtype, x.device).index_select(0, place[axis : axis + 1])[0]
            x = x @ moves.T if axis else moves @ x
    return x


_known: dict[tuple[int, int, torch.dtype, torch.device], Tensor] = {}


def _moves(size: int, reach: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[2 * reach + 1, size, size]: by place, 1 where a pixel (row) takes its value from; made once."""
    key = size, reach, dtype, device
    if key in _known:
        return _known[key]
    pixels = torch.arange(size, device=device)
    shifts = torch.arange(-reach, reach + 1, device=device).clamp(1 - size, size - 1)
    source = (pixels + shifts[:, None]).abs()
    source = size - 1 - (size - 1 - source).abs()
    moves = (source[:, :, None] == pixels).to(dtype)
    if type(moves) is Tensor:  # a traced tensor must not outlive its trace
        _known[key] = moves
    return moves


class SwingConv2d(nn.Conv2d):
    """``conv``, whatever its forward does, on its input moved to :attr:`place` [2]."""

    def __init__(self, conv: nn.Conv2d, place: Tensor, reach: tuple[int, int]) -> None:
        kernel, stride = cast("tuple[int, int]", conv.kernel_size), cast("tuple[int, int]", conv.stride)
        super().__init__(conv.in_channels, conv.out_channels, kernel, stride, groups=conv.groups, device="meta")
        self.weight, self.bias = conv.weight, conv.bias
        self.place, self.reach, self.convolve = place, reach, conv.forward
        self.train(conv.training)

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, O, ...]."""
        return self.convolve(swing(input, self.place, self.reach))


class Swing:
    """Every strided ``nn.Conv2d`` of a network, edited in place, made to swing, and where each is now.

    ``network`` is another module only if it is itself a convolution.
    """

    AHEAD = 50  # iterations drawn at a time

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        strided = [m for m in network.modules() if isinstance(m, nn.Conv2d) and max(m.stride) > 1]
        self.reaches = torch.tensor([[s - 1 for s in m.stride] for m in strided], dtype=torch.int64).view(-1, 2)
        self.at_rest = self.reaches.to(device)
        self.places = self.at_rest.clone()
        index = {conv: i for i, conv in enumerate(strided)}

        def convert(_: str, module: nn.Module) -> nn.Module | None:
            if module not in index or not isinstance(module, nn.Conv2d):
                return None
            height, width = module.stride
            return SwingConv2d(module, self.places[index[module]], (height - 1, width - 1))

        self.network = swap_modules(network, convert)
        self.stream: tuple[Any, ...] = ()
        self.chunk, self.drawn = -1, torch.empty(0)

    def start(self, *stream: Any) -> None:
        """Places depend on ``stream``, a seed and names, and the iteration alone."""
        self.stream, self.chunk = stream, -1

    def move(self, iteration: int) -> None:
        """Take the places of an iteration; they are drawn ahead on the CPU."""
        chunk, index = divmod(iteration, self.AHEAD)
        if chunk != self.chunk:
            random = generator(*self.stream, chunk)
            self.chunk, self.drawn = chunk, draw_places(self.reaches, self.AHEAD, random).to(self.places.device)
        self.places.copy_(self.drawn[index])

    def rest(self) -> None:
        """Every convolution sees its input as it is."""
        self.places.copy_(self.at_rest)
