"""Gradients of the fused functions: once, and an error where somebody differentiates them again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import hast_cuda as hc


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_zeros(3), x.new_ones(3)


def matched(x: Tensor) -> Tensor:
    mean, var = statistics(x)
    return hc.match_loss([x.mean((0, 2, 3))], [var], [mean], [var])


def classified(x: Tensor) -> Tensor:
    return hc.hard_sample_loss(x.flatten(1), torch.tensor([0, 3], device=x.device), 2.0)[0]


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "batch_norm_match": lambda x: hc.batch_norm_match(x, *statistics(x))[2],
    "batch_norm_activation": lambda x: hc.batch_norm_activation(x, *statistics(x), energy=True)[1],
    "channel_attention": hc.channel_attention,
    "attention_loss": lambda x: hc.attention_loss([x.detach() ** 2], [x]),
    "match_loss": matched,
    "distillation_loss": lambda x: hc.distillation_loss(x.detach().flatten(1) ** 2, x.flatten(1), 2.0),
    "hard_sample_loss": classified,
    "fake_quantize": lambda x: hc.fake_quantize(x, -0.5, 0.5, 4, ste="clipped").square(),
    "quantize_activation": lambda x: hc.quantize_activation(
        x, hc.new_range_state(device=x.device), 4, activation="relu", observe=True
    ).square(),
}


@pytest.mark.filterwarnings("error")  # what torch says of ops without a formula, and passes on no gradient
@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_second_derivatives_are_refused(device: torch.device, name: str, square: bool) -> None:
    x = torch.arange(96.0, device=device).view(2, 3, 4, 4).cos().requires_grad_()
    y = FUNCTIONS[name](x)
    loss = (y.square() if square else y).sum()
    (plain,) = torch.autograd.grad(loss, x, retain_graph=True)
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    assert torch.equal(plain, gradient)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        gradient.square().sum().backward()
