"""Weights between two levels of their grid, where training decides which one each of them takes.

AdaRound (Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020,
arXiv:2004.10568), Eq. 22 to 24, with a step of every output channel that is trained too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor

from hast_cuda.checks import tensors as _checks
from hast_cuda.ops import _autograd, _layout, _workspace
from hast_cuda.ops._registry import core, launch, operator, pointer, pointers
from hast_cuda.ops.arithmetic import broadcast
from hast_cuda.ops.codes import Pointer

ZETA, GAMMA = 1.1, -0.1  # the sigmoid is stretched to these ends and cut at 1 and 0
SPAN = 1.2  # zeta - gamma; as a difference it is a bit more, and h(0) in float64 not one half


def rectified_sigmoid(rounding: Tensor) -> Tensor:
    """Eq. 23, ``h(V) = clamp(sigmoid(V) * (zeta - gamma) + gamma, 0, 1)``, of any shape."""
    return (torch.sigmoid(rounding) * SPAN + GAMMA).clamp(0, 1)


def soft_round_weights_reference(
    bases: Sequence[Tensor],
    roundings: Sequence[Tensor],
    steps: Sequence[Tensor],
    lows: Sequence[Tensor],
    bits: Sequence[int],
    beta: Tensor | None = None,
) -> tuple[list[Tensor], Tensor | None]:
    """Eq. 22 of every weight and, with beta, Eq. 24 over all of them."""
    weights, terms = [], []
    for base, rounding, step, low, width in zip(bases, roundings, steps, lows, bits, strict=True):
        up = rectified_sigmoid(rounding)
        least = broadcast(low, base, 0)
        weights.append((base + up).clamp(least, least + (2**width - 1)) * broadcast(step, base, 0))
        if beta is not None:
            terms.append((1 - (2 * up - 1).abs().pow(beta)).sum())
    return weights, torch.stack(terms).sum() if terms else None


def _forward_reference(
    bases: list[Tensor],
    roundings: list[Tensor],
    steps: list[Tensor],
    lows: list[Tensor],
    bits: list[int],
    beta: Tensor | None,
) -> tuple[list[Tensor], Tensor]:
    weights, regulariser = soft_round_weights_reference(bases, roundings, steps, lows, bits, beta)
    return weights, roundings[0].new_empty(0) if regulariser is None else regulariser


def _backward_reference(
    gradients: list[Tensor],
    regulariser_gradient: Tensor | None,
    bases: list[Tensor],
    roundings: list[Tensor],
    steps: list[Tensor],
    lows: list[Tensor],
    bits: list[int],
    beta: Tensor | None,
) -> tuple[list[Tensor], list[Tensor]]:
    count = len(bases)
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in (*roundings, *steps)]
        outputs, regulariser = soft_round_weights_reference(bases, leaves[:count], leaves[count:], lows, bits, beta)
        upstream = [g if g.numel() else torch.zeros_like(y) for g, y in zip(gradients, outputs, strict=True)]
        if regulariser is not None and regulariser_gradient is not None:
            outputs.append(regulariser)
            upstream.append(regulariser_gradient)
        found = torch.autograd.grad(outputs, leaves, upstream)
    return list(found[:count]), list(found[count:])


class _Layers(TypedDict):
    """What both directions read, of the weights that have elements."""

    bases: list[Pointer]
    roundings: list[Pointer]
    steps: list[Pointer]
    lows: list[Pointer]
    rows: list[int]
    columns: list[int]
    bits: list[int]


def _layers(
    bases: list[Tensor], roundings: list[Tensor], steps: list[Tensor], lows: list[Tensor], bits: list[int]
) -> _Layers:
    own = [i for i, rounding in enumerate(roundings) if rounding.numel()]
    return {
        "bases": pointers([bases[i] for i in own]),
        "roundings": pointers([roundings[i] for i in own]),
        "steps": pointers([steps[i] for i in own]),
        "lows": pointers([lows[i] for i in own]),
        "rows": [roundings[i].shape[0] for i in own],
        "columns": [roundings[i].numel() // roundings[i].shape[0] for i in own],
        "bits": [bits[i] for i in own],
    }


def _outputs(roundings: list[Tensor], beta: Tensor | None) -> tuple[list[Tensor], Tensor]:
    return [torch.empty_like(r) for r in roundings], roundings[0].new_empty(0 if beta is None else ())


def _gradients(roundings: list[Tensor], steps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    like = [torch.empty_like if rounding.numel() else torch.zeros_like for rounding in roundings]
    return [torch.empty_like(r) for r in roundings], [make(s) for make, s in zip(like, steps, strict=True)]


@operator(_forward_reference, _outputs)
def _soft_round_weights(
    bases: list[Tensor],
    roundings: list[Tensor],
    steps: list[Tensor],
    lows: list[Tensor],
    bits: list[int],
    beta: Tensor | None,
) -> tuple[list[Tensor], Tensor]:
    weights, regulariser = _outputs(roundings, beta)
    layers = _layers(bases, roundings, steps, lows, bits)
    if layers["rows"]:
        scratch = _workspace.scratch(regulariser, sum(layers["rows"]), torch.float64)
        core.soft_round_weights(
            **layers,
            weights=pointers([w for w in weights if w.numel()]),
            beta=pointer(beta),
            regulariser=pointer(regulariser),
            scratch=pointer(scratch),
            counters=_workspace.counters(regulariser, 1),
            **launch(regulariser),
        )
    else:
        regulariser.zero_()
    return weights, regulariser


@operator(_backward_reference, _gradients)
def _soft_round_weights_backward(
    gradients: list[Tensor],
    regulariser_gradient: Tensor | None,
    bases: list[Tensor],
    roundings: list[Tensor],
    steps: list[Tensor],
    lows: list[Tensor],
    bits: list[int],
    beta: Tensor | None,
) -> tuple[list[Tensor], list[Tensor]]:
    of_roundings, of_steps = _gradients(roundings, steps)
    layers = _layers(bases, roundings, steps, lows, bits)
    own = [i for i, rounding in enumerate(roundings) if rounding.numel()]
    upstream = [_layout.like(g, r) if g.numel() else g for g, r in zip(gradients, roundings, strict=True)]
    if own:
        core.soft_round_weights_backward(
            **layers,
            gradients=pointers([upstream[i] for i in own]),
            rounding_gradients=pointers([of_roundings[i] for i in own]),
            step_gradients=pointers([of_steps[i] for i in own]),
            beta=pointer(beta),
            regulariser_gradient=pointer(regulariser_gradient),
            **launch(roundings[0]),
        )
    return of_roundings, of_steps


class _SoftRoundWeights(torch.autograd.Function):
    """To roundings and steps; h is computed again from what was the input, so nothing else is kept."""

    @staticmethod
    def forward(ctx: Any, bits: list[int], beta: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(beta, *tensors)
        ctx.bits = bits
        weights, regulariser = _soft_round_weights(*_groups(tensors), bits, beta)
        return (*weights, regulariser) if beta is not None else tuple(weights)

    @staticmethod
    @_autograd.once
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        beta, *tensors = ctx.saved_tensors
        bases, roundings, steps, lows = _groups(tensors)
        # an empty tensor stands for None, which a list in an op cannot hold
        upstream = [r.new_empty(0) if g is None else g for g, r in zip(grads, roundings, strict=False)]
        found = _soft_round_weights_backward(
            upstream, None if beta is None else grads[-1], bases, roundings, steps, lows, ctx.bits, beta
        )
        constant = [None] * len(bases)
        return (None, None, *constant, *found[0], *found[1], *constant)


def _groups(tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """Bases, roundings, steps and lows, which an autograd function takes in one row."""
    count = len(tensors) // 4
    bases, roundings, steps, lows = (list(tensors[i * count : (i + 1) * count]) for i in range(4))
    return bases, roundings, steps, lows


def soft_round_weights(
    bases: Sequence[Tensor],
    roundings: Sequence[Tensor],
    steps: Sequence[Tensor],
    lows: Sequence[Tensor],
    bits: int | Sequence[int],
    beta: Tensor | None = None,
) -> tuple[list[Tensor], Tensor | None]:
    """Weights ``clamp(base + h(V), low, low + 2^bits - 1) * step`` of many layers, in one launch.

    ``h(V) = clamp(1.2 sigmoid(V) - 0.1, 0, 1)`` goes from 0, the level below a weight, to 1, the one
    above it (AdaRound, Nagel et al. 2020, Eq. 22 and 23).

    Args:
        bases: tensors [out, ...], ``floor(w / step)`` of the weights; constant.
        roundings: V, per weight of the shape of its base.
        steps: per weight [out], the distance of two levels of every output channel, above 0.
        lows: per weight [out], the lowest level of every output channel, a whole number; constant.
        bits: 2 to 8, one for all or one per weight.
        beta: 0-d, at least 1, the exponent of the regulariser; a tensor, so that a CUDA graph reads
            the value of the moment. None for no regulariser.

    All tensors are float32, or all are float64, on one device. Values on CUDA are not checked.

    Returns:
        One tensor per weight, and the sum of ``1 - |2 h - 1|^beta`` over all elements (Eq. 24, 0-d)
        or None. Gradients (once) flow to roundings, not where a level is cut to the grid's ends or
        h to 0 or 1, and to steps.

    Raises:
        TypeError: wrong dtype. ValueError: bits out of range, lengths, shapes or devices that
            differ, a 0-d base, on the CPU a beta below 1.

    Example:
        >>> import hast_cuda as hc
        >>> weight, step = torch.randn(8, 3, 3, 3), torch.full((8,), 0.25)
        >>> base, undecided = (weight / 0.25).floor(), torch.zeros(8, 3, 3, 3)  # h(0) is one half
        >>> (soft,), _ = hc.ops.soft_round_weights([base], [undecided], [step], [step * 0 - 128], 8)
        >>> torch.allclose(soft, 0.25 * (base + 0.5))
        True
    """
    named = {"bases": bases, "roundings": roundings, "steps": steps, "lows": lows}
    groups = [_checks.tensors(name, values) for name, values in named.items()]
    counts = [len(group) for group in groups]
    if len(set(counts)) > 1:
        raise ValueError(f"expected equally many bases, roundings, steps and lows, got {counts}")
    widths = _checks.bit_widths(bits, "bases", counts[0])
    for index, (base, *others) in enumerate(zip(*groups, strict=True)):
        _check_layer(index, base, others, groups[0][0])
    if beta is not None:
        _check_beta(beta, groups[0])
    if not groups[0]:
        return [], None if beta is None else torch.zeros_like(beta)
    dense = [_layout.dense(rounding) for rounding in groups[1]]
    alike = [_layout.like(base, rounding) for base, rounding in zip(groups[0], dense, strict=True)]
    vectors = [x.contiguous() for group in groups[2:] for x in group]
    outputs: tuple[Tensor, ...] = _SoftRoundWeights.apply(widths, beta, *alike, *dense, *vectors)
    return list(outputs[: len(dense)]), None if beta is None else outputs[-1]


def _check_layer(index: int, base: Tensor, others: list[Tensor], first: Tensor) -> None:
    """Shapes of one weight's tensors, and dtype and device as those of the ``first`` base."""
    name = f"bases[{index}]"
    _exact(name, base, first)
    if base.dim() == 0:
        raise ValueError(f"{name} is a scalar; expected [out_channels, ...]")
    for kind, x, shape in zip(
        ("roundings", "steps", "lows"), others, (base.shape, base.shape[:1], base.shape[:1]), strict=True
    ):
        _exact(f"{kind}[{index}]", x, first)
        if x.shape != shape:
            raise ValueError(
                f"{kind}[{index}] has shape {tuple(x.shape)}; expected {tuple(shape)} for {name} {tuple(base.shape)}"
            )


def _exact(name: str, x: Tensor, first: Tensor) -> None:
    """``x`` is of a dtype in which weights are trained, and where the ``first`` base is."""
    _checks.floating(name, x)
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} has dtype {x.dtype}; weights are trained in float32, or float64: give {name}.float()")
    if x.dtype != first.dtype:
        raise TypeError(f"{name} has dtype {x.dtype} but bases[0] has {first.dtype}; all tensors have one dtype")
    _checks.same_device(name, x, "bases[0]", first)


def _check_beta(beta: Tensor, bases: list[Tensor]) -> None:
    """0-d like the weights; its value is read on the CPU alone."""
    _exact("beta", beta, bases[0] if bases else beta)
    if beta.dim():
        raise ValueError(f"beta has shape {tuple(beta.shape)}; expected a 0-d tensor, e.g. torch.tensor(20.0)")
    if _checks.known_values(beta) and not 1 <= beta.item() < float("inf"):
        raise ValueError(f"beta is {beta.item()}; allowed: 1 or more, finite")
