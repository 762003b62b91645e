"""The gradient of both BatchNorm ops, as no public op asks for it."""

from __future__ import annotations

import importlib

import pytest
import torch
from cases import FORMATS, arrange

from hast_cuda.ops._registry import launch, pointer
from hast_cuda.ops.activations import CODES
from hast_cuda.ops.codes import Gate, Pointer

OP = importlib.import_module("hast_cuda.ops.batch_norm_backward")
SHAPE = (2, 5, 3, 4)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("gate", [OP.NO_GATE, OP.GATE_BY_OUTPUT, OP.GATE_BY_INPUT])
@pytest.mark.parametrize("statistics", [False, True])
def test_nothing_stops_the_gradient_without_an_activation(
    device: torch.device, layout: str, gate: int, statistics: bool
) -> None:
    x, dy = (arrange(torch.randn(SHAPE, device=device), layout) for _ in range(2))
    mean, dvar = torch.zeros(5, device=device), torch.rand(5, device=device)
    var = torch.rand(5, device=device) + 0.5
    given, norm = (dy, None, None, dvar if statistics else None, None, None), (mean, mean, var, None, None, 0.0)
    dx, *_ = OP.batch_norm_backward(*given, x, x, None, None, *norm, None, 0, None, gate, False, False, False)
    expected = dy / var.sqrt()[:, None, None]
    if statistics:
        expected = expected + 2 * dvar[:, None, None] * x / (x.numel() // 5)
    torch.testing.assert_close(dx, expected)


@pytest.mark.parametrize("channels_last", [False, True])
def test_gradient_of_the_target_alone(device: torch.device, channels_last: bool) -> None:
    images, channels, *space = SHAPE
    x, target, dtarget = (torch.randn(SHAPE, device=device) for _ in range(3))
    if channels_last:  # the same memory, told apart by its extents
        images, *space, channels = SHAPE
    spatial = space[0] * space[1]
    mean, var = torch.zeros(channels, device=device), torch.ones(channels, device=device)
    denergy = torch.randn(images, channels, device=device)
    absent = "y residual dy dy2 dmean dvar dmap mean weight bias range dx dresidual dweight dbias scratch counters"
    outer, inner = (images * spatial, 1) if channels_last else (images, spatial)
    extents = {"outer": outer, "channels": channels, "inner": inner}
    OP.core.batch_norm_backward(
        x=pointer(x),
        target=pointer(target),
        denergy=pointer(denergy),
        dtarget=pointer(dtarget),
        running_mean=pointer(mean),
        running_var=pointer(var),
        eps=0.0,
        bits=0,
        images=images,
        activation=CODES[None],
        gate=Gate(0),
        **extents,
        **dict.fromkeys(absent.split(), Pointer(0)),
        **launch(x),
    )
    scale = denergy[:, None, None] if channels_last else denergy[:, :, None, None]
    torch.testing.assert_close(dtarget, -2 * scale * (x - target))
