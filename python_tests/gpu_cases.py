"""Every op forward and backward on fixed inputs, for the tests of streams, devices and graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import hast_cuda as hc
from hast_cuda.ops import _workspace

Inputs = list[Tensor]
CUDA = torch.device("cuda", 0)
NEEDS_CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
SHAPES = [(8, 16, 14, 14), (3, 7, 5, 3)]  # vector and scalar paths


@dataclass(frozen=True)
class OpCase:
    """``make`` the inputs on a device; ``run`` returns every output and every gradient."""

    name: str
    make: Callable[[torch.device], Inputs]
    run: Callable[[Inputs], list[Tensor]]


def _activations(device: torch.device) -> Inputs:
    return [torch.randn(s, device=device).requires_grad_() for s in SHAPES]


def _with(outputs: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
    """Outputs, and the gradients of their weighted sum."""
    weighted = [(o * (i + 2)).sum() for i, o in enumerate(outputs)]
    grads = torch.autograd.grad(weighted, leaves)
    return [*(o.detach() for o in outputs), *grads]


def _quantize(inputs: Inputs) -> list[Tensor]:
    outputs = [
        hc.fake_quantize(x, lower, upper, 4, ste="clipped", activation="relu")
        for x, lower, upper in zip(inputs[:2], inputs[2::2], inputs[3::2], strict=True)
    ]
    return _with(outputs, inputs[:2])


def _quantize_inputs(device: torch.device) -> Inputs:
    ranges = [torch.tensor([v], device=device) for v in (-1.0, 1.5, -0.5, 2.0)]
    return [*_activations(device), *ranges]


def _channels_inputs(device: torch.device) -> Inputs:
    x = torch.randn(SHAPES[0], device=device).to(memory_format=torch.channels_last)
    low = -torch.rand(SHAPES[0][1], device=device)
    return [x.requires_grad_(), low, low + 2]


def _channels(inputs: Inputs) -> list[Tensor]:
    x, lower, upper = inputs
    return _with([hc.fake_quantize(x, lower, upper, 3, 1, ste="clipped")], [x])


def _weights(inputs: Inputs) -> list[Tensor]:
    return _with(hc.fake_quantize_weights(inputs, 4), inputs)


def _soft_rounding_inputs(device: torch.device) -> Inputs:
    inputs: Inputs = [torch.tensor(3.0, device=device)]  # beta
    for shape in ((16, 16, 3, 3), (4, 513)):  # rows of a warp and of a block, vectors and single elements
        base, low = torch.randint(-4, 4, shape, device=device).float(), torch.full(shape[:1], -3.0, device=device)
        rounding, step = torch.randn(shape, device=device), torch.rand(shape[:1], device=device) + 0.1
        inputs += [base, rounding.requires_grad_(), step.requires_grad_(), low]
    return inputs


def _soft_rounding(inputs: Inputs) -> list[Tensor]:
    beta, *layers = inputs
    bases, roundings, steps, lows = (layers[i::4] for i in range(4))
    weights, regulariser = hc.ops.soft_round_weights(bases, roundings, steps, lows, 3, beta)
    assert regulariser is not None
    return _with([*weights, regulariser], [*roundings, *steps])


def _observed(inputs: Inputs) -> list[Tensor]:
    states = [hc.new_range_state(device=x.device) for x in inputs]
    outputs = [
        hc.quantize_activation(x, s, 4, activation="relu6", observe=True, ste="clipped")
        for x, s in zip(inputs, states, strict=True)
    ]
    return [*_with(outputs, inputs), *states]


def _tracking_inputs(device: torch.device) -> Inputs:
    return [*_activations(device), *(hc.new_range_state(device=device) for _ in SHAPES)]


def _tracking(inputs: Inputs) -> list[Tensor]:
    """Updates the states among the inputs, so that calls build on one another."""
    outputs = [
        hc.quantize_activation(x, s, 4, activation="relu", observe=True)
        for x, s in zip(inputs[:2], inputs[2:], strict=True)
    ]
    return [*_with(outputs, inputs[:2]), *(s.clone() for s in inputs[2:])]


def _norm_inputs(device: torch.device) -> Inputs:
    inputs: Inputs = []
    for shape in SHAPES:
        mean, bias = (torch.randn(shape[1], device=device) for _ in range(2))
        var, weight = (torch.rand(shape[1], device=device) + 0.5 for _ in range(2))
        x, residual = (torch.randn(shape, device=device).requires_grad_() for _ in range(2))
        inputs += [x, mean, var, weight.requires_grad_(), bias.requires_grad_(), residual]
    return inputs


def _norm(inputs: Inputs) -> list[Tensor]:
    layers = [inputs[i : i + 6] for i in (0, 6)]
    found = [hc.batch_norm_match(x, m, v, w, b, activation="relu", residual=r) for x, m, v, w, b, r in layers]
    means, variances = [f[1] for f in found], [f[2] for f in found]
    running = [layer[1] for layer in layers], [layer[2] for layer in layers]
    loss = hc.match_loss(means, variances, *running)
    norm = hc.match_loss(means, variances, *running, reduction="norm")
    relative = hc.match_loss(means, variances, *running, reduction="relative")
    leaves = [t for layer in layers for t in (layer[0], *layer[3:])]
    return _with([*(f[0] for f in found), *means, *variances, loss, norm, relative], leaves)


def _attention_inputs(device: torch.device) -> Inputs:
    shapes = [(4, 16, 14, 14), (4, 7, 5, 3)]
    return [torch.randn(s, device=device).requires_grad_() for s in shapes * 2]


def _attention(inputs: Inputs) -> list[Tensor]:
    losses = [hc.attention_loss(inputs[:2], inputs[2:], normalized=n) for n in (True, False)]
    return _with([*losses, *(hc.channel_attention(f) for f in inputs)], inputs)


def _block_inputs(device: torch.device) -> Inputs:
    inputs = _norm_inputs(device)
    for i in (0, 5):  # the first layer channels_last: its energies take the counters
        tensor = inputs[i].detach().to(memory_format=torch.channels_last)
        inputs[i] = tensor.requires_grad_()
    return [*inputs, torch.tensor([0.0, 2.0, 0, 0, 0], device=device)]


def _block(inputs: Inputs) -> list[Tensor]:
    *layers, state = [inputs[0:6], inputs[6:12], inputs[12]]
    outputs = [
        output
        for x, m, v, w, b, r in layers
        for output in hc.ops.batch_norm_activation(
            x, m, v, w, b, activation="relu", residual=r, state=state, energy=True, twice=True
        )
    ]
    leaves = [t for layer in layers for t in (layer[0], *layer[3:])]
    return _with(outputs, leaves)


def _aligned(inputs: Inputs) -> list[Tensor]:
    outputs = []
    for x, m, v, w, b, r in (inputs[0:6], inputs[6:12]):
        y, _, u = hc.ops.batch_norm_activation(x, m, v, w, b, activation="relu", residual=r, normalized=True)
        z, distance = hc.ops.batch_norm_activation(x, m, v, energy=True, target=u)
        outputs += [y, u, z, distance]
    leaves = [t for i in (0, 6) for t in (inputs[i], *inputs[i + 3 : i + 6])]
    return _with(outputs, leaves)


def _logits_inputs(device: torch.device) -> Inputs:
    shapes = [(64, 10), (9, 1000)]
    return [torch.randn(s, device=device).requires_grad_() for s in shapes * 2]


def _losses(inputs: Inputs) -> list[Tensor]:
    labels = [torch.arange(len(x), device=x.device) % x.shape[1] for x in inputs[:2]]
    distilled = [hc.ops.distillation_loss(t, s, 20.0) for t, s in zip(inputs[:2], inputs[2:], strict=True)]
    hard = [hc.ops.hard_sample_loss(x, y, 2.0)[0] for x, y in zip(inputs[:2], labels, strict=True)]
    return _with([*distilled, *hard], inputs)


OP_CASES = [
    OpCase("fake_quantize", _quantize_inputs, _quantize),
    OpCase("fake_quantize-channels_last", _channels_inputs, _channels),
    OpCase("fake_quantize_weights", _activations, _weights),
    OpCase("soft_round_weights", _soft_rounding_inputs, _soft_rounding),
    OpCase("quantize_activation-tracking", _tracking_inputs, _tracking),
    OpCase("batch_norm_match+match_loss", _norm_inputs, _norm),
    OpCase("batch_norm_activation", _block_inputs, _block),
    OpCase("batch_norm_activation-aligned", _block_inputs, _aligned),
    OpCase("attention", _attention_inputs, _attention),
    OpCase("losses", _logits_inputs, _losses),
]
# Makes its state inside: new_range_state copies from the host, which no graph can capture.
STREAM_CASES = [*OP_CASES, OpCase("quantize_activation-first", _activations, _observed)]


def copies(inputs: Inputs) -> Inputs:
    """Equal inputs with storage of their own."""
    return [t.detach().clone().requires_grad_(t.requires_grad) for t in inputs]


class Memory:
    """uint32s of the device that belong to no tensor."""

    def __init__(self, address: int, count: int) -> None:
        self.__cuda_array_interface__ = {"data": (address, False), "shape": (count,), "typestr": "<i4", "version": 3}


def view(address: int, count: int) -> Tensor:
    """Those uint32s as a tensor."""
    return torch.as_tensor(Memory(address, count), device=CUDA)


def counters_left() -> int:
    """How many of all counters are not zero; they must be between kernels."""
    torch.cuda.synchronize()
    places = list(_workspace._places.values())
    return sum(int(view(address, count).count_nonzero()) for count, address in places)


def assert_equal(found: Inputs, expected: Inputs) -> None:
    """Equal bits in every tensor."""
    for index, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert torch.equal(a, b), f"output {index} differs"


@torch.no_grad()
def fill(targets: Inputs, sources: Inputs) -> None:
    """Overwrite ``targets`` in place."""
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


def each(cases: list[OpCase]) -> pytest.MarkDecorator:
    """Parametrize a test by cases."""
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)
