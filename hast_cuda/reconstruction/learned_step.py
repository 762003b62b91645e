"""An activation quantizer whose step is trained, and which lets some activations through (QDrop)."""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.nn.activation import FakeQuantActivation
from hast_cuda.ops.arithmetic import quantizer_parameters
from hast_cuda.ops.fake_quantize import FakeQuantizeFunction
from hast_cuda.ops.reference import activate

LEAST = 1e-2  # of the step at the start: none becomes zero or negative


def draw_mask_(mask: Tensor, probability: float, random: torch.Generator, whole: int, own: slice) -> None:
    """Fill ``mask`` [n, ...], ``own`` of ``whole`` images, with 0 and, of ``probability``, 1.

    A byte per element decides, in steps of 1/128; eight come from one 63-bit draw, which takes a
    thirtieth of the time of ``bernoulli_`` on a CPU.
    """
    each = mask.numel() // max(len(mask), 1)
    words = torch.empty(-(-whole * each // 8), dtype=torch.int64, device=mask.device).random_(generator=random)
    drawn = words.view(torch.uint8)[: whole * each].view(whole, each)[own].view(mask.shape)
    torch.lt(drawn.bitwise_and(127), round(probability * 128), out=mask)


class _StepGradient(torch.autograd.Function):
    """Fake quantization with the clipped gradient, and that of its step in units of the step.

    ``y = step * clamp(round(x / step), low, high)`` gives ``step * dy/dstep = y - x`` inside of the
    range and ``y`` outside (LSQ), so that the sum over a tensor is ``<g, y> - <dL/dx, x>``.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor, quantizer: LearnedStep) -> Tensor:
        lower, upper = quantizer.ends(factor)
        with torch.enable_grad():
            inner = x.detach().requires_grad_()
            activation, bits = quantizer.source.activation, quantizer.source.bits
            y: Tensor = FakeQuantizeFunction.apply(inner, lower, upper, bits, None, False, activation, True)
        ctx.inner, ctx.outer = inner, y
        ctx.save_for_backward(factor)
        return y.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (factor,) = ctx.saved_tensors
        inner, y = ctx.inner, ctx.outer
        (towards,) = torch.autograd.grad(y, inner, grad)
        moved = (grad * y.detach()).sum() - (towards * inner.detach()).sum()
        return towards, (moved / factor).reshape(factor.shape), None


class LearnedStep(nn.Module):
    """Stands for ``source`` while its block is trained.

    :attr:`factor` is the step in units of that of the start; zero point and number of levels stay.
    """

    kept: Tensor | None

    def __init__(self, source: FakeQuantActivation, probability: float, *, learn: bool) -> None:
        super().__init__()
        self.source, self.probability, self.learn = source, probability, learn
        lower, upper = source.range_state[0], source.range_state[1]
        scale, zero = quantizer_parameters(lower, upper, source.bits)
        self.step, self.low = scale.reciprocal(), zero - 2 ** (source.bits - 1)
        self.factor = nn.Parameter(torch.ones_like(self.step))
        self.kept = None  # 1 where an activation stays as it is: filled anew before every step

    def ends(self, factor: Tensor) -> Tensor:
        """Range [2, 1] with the step ``factor``."""
        step = self.step * factor.detach().clamp(min=LEAST)
        return torch.stack((self.low * step, (self.low + 2**self.source.bits - 1) * step)).view(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Activation and quantization, or activation alone where :attr:`kept` says so."""
        given = x.clone() if self.source.inplace else x
        factor = self.factor if self.learn else self.factor.detach()
        y: Tensor = _StepGradient.apply(given, factor, self)
        if self.probability:
            if self.kept is None:
                self.kept = torch.zeros_like(y)
            y = torch.lerp(y, activate(given, self.source.activation), self.kept)
        return x.copy_(y) if self.source.inplace else y

    @torch.no_grad()
    def finish(self) -> None:
        """Give ``source`` the range that was found."""
        self.source.set_range(*self.ends(self.factor).flatten().unbind())


@contextmanager
def learned_steps(
    block: nn.Module, probability: float, *, learn: bool, shared: Container[nn.Module] = ()
) -> Iterator[list[LearnedStep]]:
    """Put a :class:`LearnedStep` in the place of every quantizer of ``block``, for a while.

    Those of ``shared``, which other blocks have too, stay as they are.
    """
    found: dict[FakeQuantActivation, LearnedStep] = {}
    places: list[tuple[nn.Module, str, FakeQuantActivation]] = []
    for module in list(block.modules()):
        for name, child in module.named_children():
            if isinstance(child, FakeQuantActivation) and child not in shared:
                places.append((module, name, child))
                found.setdefault(child, LearnedStep(child, probability, learn=learn))
    try:
        for module, name, child in places:
            module._modules[name] = found[child]
        yield list(found.values())
    finally:
        for module, name, child in places:
            module._modules[name] = child
