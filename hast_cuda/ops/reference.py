"""Eager twins of every op: the formulas of the paper in plain PyTorch, written to be read.

They are the oracle of the tests, the baseline of the benchmarks and what runs when the compiled
core is missing. Half types are computed in float32 and rounded once at the end, as the kernels do.
All are differentiable by autograd except where a straight-through gradient replaces the true one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

RANGE_FLOOR = 1e-8  # a constant tensor has a range of 0; the floor keeps the scale finite
ENERGY_FLOOR = 1e-12  # same role for the norm of an all-zero attention vector
# At p = 1 the gradient of (1-p)^gamma is infinite for gamma < 1, and softmax reaches 1 exactly.
LARGEST_PROBABILITY = 1 - 1e-6


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 computes in float64, everything else in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def activate(x: Tensor, activation: str | None) -> Tensor:
    """The activation fused in front of a quantizer: ``None``, ``"relu"`` or ``"relu6"``."""
    if activation is None:
        return x
    return F.relu(x) if activation == "relu" else F.relu6(x)


def broadcast(value: Tensor, x: Tensor, channel_axis: int | None) -> Tensor:
    """Reshape a per-channel vector so that it broadcasts along ``channel_axis`` of ``x``."""
    if channel_axis is None:
        return value.reshape(())
    shape = [1] * x.dim()
    shape[channel_axis] = -1
    return value.reshape(shape)


def quantizer_parameters(
    lower: Tensor, upper: Tensor, bits: int, *, real_zero_point: bool = False
) -> tuple[Tensor, Tensor]:
    """Scale ``S = (2^n - 1) / (u - l)`` and zero point ``z = S*l + 2^(n-1)`` of Eq. 1."""
    scale = (2**bits - 1) / (upper - lower).clamp(min=RANGE_FLOOR)
    zero = scale * lower
    if not real_zero_point:
        zero = torch.round(zero)  # an integer zero point represents the real 0 exactly
    return scale, zero + 2 ** (bits - 1)


def quantize_integers(
    x: Tensor, lower: Tensor, upper: Tensor, bits: int, channel_axis: int | None = None,
    *, real_zero_point: bool = False,
) -> Tensor:  # fmt: skip
    """Integer codes ``clamp(round(S*x - z), -2^(n-1), 2^(n-1) - 1)`` of Eq. 1, as floats."""
    scale, zero = quantizer_parameters(lower, upper, bits, real_zero_point=real_zero_point)
    return _codes(x, broadcast(scale, x, channel_axis), broadcast(zero, x, channel_axis), bits)


def _codes(x: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    return torch.round(scale * x - zero).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def fake_quantize(
    x: Tensor, lower: Tensor, upper: Tensor, bits: int, channel_axis: int | None = None,
    *, real_zero_point: bool = False, activation: str | None = None,
) -> Tensor:  # fmt: skip
    """``(q + z) / S`` of Eq. 2, rounded to the dtype of ``x``."""
    y = activate(x.to(arithmetic_dtype(x.dtype)), activation)
    scale, zero = (
        broadcast(value, x, channel_axis)
        for value in quantizer_parameters(lower, upper, bits, real_zero_point=real_zero_point)
    )
    return ((_codes(y, scale, zero, bits) + zero) / scale).to(x.dtype)


def fake_quantize_backward(
    grad: Tensor, x: Tensor, lower: Tensor, upper: Tensor, bits: int,
    channel_axis: int | None = None, *, real_zero_point: bool = False,
    activation: str | None = None, clipped: bool = False,
) -> Tensor:  # fmt: skip
    """Straight-through gradient: ``grad`` where the activation (and a clipped grid) passes."""
    passes = torch.ones_like(x, dtype=torch.bool)
    if activation is not None:
        passes = x > 0
        if activation == "relu6":
            passes &= x < 6
    if clipped:
        y = activate(x.to(arithmetic_dtype(x.dtype)), activation)
        scale, zero = quantizer_parameters(lower, upper, bits, real_zero_point=real_zero_point)
        codes = torch.round(
            broadcast(scale, x, channel_axis) * y - broadcast(zero, x, channel_axis)
        )
        passes &= (codes >= -(2 ** (bits - 1))) & (codes <= 2 ** (bits - 1) - 1)
    return torch.where(passes, grad, torch.zeros((), dtype=grad.dtype, device=grad.device))


def fake_quantize_weights(
    weights: Sequence[Tensor], bits: Sequence[int], *, real_zero_point: bool = False
) -> list[Tensor]:
    """Every weight quantized with the minimum and maximum of each output channel as its range."""
    outputs = []
    for weight, width in zip(weights, bits, strict=True):
        if weight.numel() == 0:
            outputs.append(torch.empty_like(weight))
            continue
        rows = weight.to(arithmetic_dtype(weight.dtype)).flatten(1)
        lower, upper = rows.aminmax(dim=1)
        outputs.append(
            fake_quantize(weight, lower, upper, width, 0, real_zero_point=real_zero_point)
        )
    return outputs


def update_range(
    x: Tensor, state: Tensor, *, activation: str | None = None, beta: float = 0.9,
    released: bool = False,
) -> None:  # fmt: skip
    """One step of the moving average of (min, max); ``state`` is [lower, upper, m_l, m_u, beta^t].

    Corrected form: ``m = beta*m + (1-beta)*v``, range ``m / (1 - beta^t)``. The ``released`` form
    feeds the corrected value back, ``r = (beta*r + (1-beta)*v) / (1 - beta^t)``, as published.
    """
    if x.numel() == 0:
        return
    extremes = torch.stack(torch.aminmax(activate(x.to(arithmetic_dtype(x.dtype)), activation)))
    power = state[4] * beta
    previous = state[0:2] if released else state[2:4]
    average = previous * beta + extremes * (1 - beta)
    corrected = average / (1 - power)
    state[0:2] = corrected
    state[2:4] = corrected if released else average
    state[4] = power


def affine(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None,
    bias: Tensor | None, eps: float,
) -> Tensor:  # fmt: skip
    """Eval-mode BatchNorm ``weight*(x - running_mean)/sqrt(running_var + eps) + bias``."""
    scale = torch.rsqrt(running_var + eps)
    if weight is not None:
        scale = scale * weight
    y = (x - broadcast(running_mean, x, 1)) * broadcast(scale, x, 1)
    return y if bias is None else y + broadcast(bias, x, 1)


def batch_norm_match(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None,
    bias: Tensor | None, eps: float, *, activation: str | None = None,
    residual: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Eval-mode BatchNorm of ``x`` and the batch mean and biased variance that Eq. 3 compares."""
    dtype = arithmetic_dtype(x.dtype)
    wide = x.to(dtype)
    dims = [d for d in range(x.dim()) if d != 1]
    var, mean = torch.var_mean(wide, dim=dims, correction=0)
    y = affine(wide, running_mean, running_var, weight, bias, eps)
    if residual is not None:
        y = y + residual.to(dtype)
    return activate(y, activation).to(x.dtype), mean, var


def batch_norm_activation(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None,
    bias: Tensor | None, eps: float, *, activation: str | None = None,
    residual: Tensor | None = None, bounds: Tensor | None = None, bits: int = 4,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """``Q(act(u + residual))`` with ``u`` the eval-mode BatchNorm, and Eq. 14 of ``u``, [N, C].

    Under autograd the quantizer is straight-through: the gradient of the identity.
    """
    dtype = arithmetic_dtype(x.dtype)
    u = affine(x.to(dtype), running_mean, running_var, weight, bias, eps)
    v = u if residual is None else u + residual.to(dtype)
    y = activate(v, activation)
    if bounds is not None:
        quantized = fake_quantize(y.detach(), bounds[0:1], bounds[1:2], bits)
        # y + (quantized - y) would round twice
        y = quantized + (y - y.detach()) if y.requires_grad else quantized
    return y.to(x.dtype), channel_attention(u) if u.dim() > 2 else u.square()


def batch_norm_backward(
    dy: Tensor | None, dmean: Tensor | None, dvar: Tensor | None, denergy: Tensor | None,
    x: Tensor, y: Tensor | None, residual: Tensor | None, mean: Tensor | None,
    running_mean: Tensor, running_var: Tensor, weight: Tensor | None, bias: Tensor | None,
    eps: float, bounds: Tensor | None, bits: int, *, activation: str | None, by_input: bool,
    need_residual: bool, need_affine: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients (x, residual, weight, bias) of both BatchNorm ops; unwanted ones are empty.

    ``dx = a*du + dmean/n + 2*dvar*(x - mean)/n``, ``du = g + 2*denergy*u``, g = dy where it passes.
    """
    dtype = running_mean.dtype
    wide, dims = x.to(dtype), [d for d in range(x.dim()) if d != 1]
    per_channel = x.numel() // x.shape[1]
    inverse = torch.rsqrt(running_var + eps)
    scale = inverse if weight is None else inverse * weight
    u = affine(wide, running_mean, running_var, weight, bias, eps)
    g = torch.zeros_like(wide) if dy is None else dy.to(dtype)
    before = u if residual is None else u + residual.to(dtype)
    gate = before if by_input else y
    if gate is not None:
        bound = bounds if by_input else None
        g = fake_quantize_backward(
            g, gate, *((bound[0:1], bound[1:2]) if bound is not None else (gate, gate)), bits,
            activation=activation, clipped=bound is not None,
        )  # fmt: skip
    dresidual = g.to(x.dtype) if need_residual else x.new_empty(0)
    if denergy is not None:
        g = g + 2 * denergy.reshape(*denergy.shape, *[1] * (x.dim() - 2)) * u
    dx = g * broadcast(scale, x, 1)
    if dmean is not None:
        dx = dx + broadcast(dmean / per_channel, x, 1)
    if dvar is not None and mean is not None:
        dx = dx + broadcast(dvar * (2 / per_channel), x, 1) * (wide - broadcast(mean, x, 1))
    dweight = dbias = running_mean.new_empty(0)
    if need_affine:
        normalised = (wide - broadcast(running_mean, x, 1)) * broadcast(inverse, x, 1)
        dweight, dbias = (g * normalised).sum(dims), g.sum(dims)
    return dx.to(x.dtype), dresidual, dweight, dbias


def match_loss(
    means: Sequence[Tensor], variances: Sequence[Tensor], running_means: Sequence[Tensor],
    running_vars: Sequence[Tensor], *, norm: bool = False,
) -> Tensor:  # fmt: skip
    """Eq. 3 over all layers: mean squared gaps (as released) or, with ``norm``, as printed."""
    terms = []
    for mean, var, running_mean, running_var in zip(
        means, variances, running_means, running_vars, strict=True
    ):
        gap_mean, gap_var = mean - running_mean, var - running_var
        if norm:
            terms.append(torch.linalg.vector_norm(gap_mean) + torch.linalg.vector_norm(gap_var))
        else:
            terms.append(gap_mean.square().mean() + gap_var.square().mean())
    return torch.stack(terms).sum() / len(terms)


def channel_attention(feature: Tensor) -> Tensor:
    """Eq. 14: ``sum over space of f^2``, [N, C, ...] -> [N, C]."""
    return feature.to(arithmetic_dtype(feature.dtype)).square().flatten(2).sum(2)


def energy_loss(
    teacher: Sequence[Tensor], student: Sequence[Tensor], spatial: Sequence[int],
    *, normalized: bool = True,
) -> Tensor:  # fmt: skip
    """Eq. 13 between attention vectors [N, C]; ``spatial`` is the number of positions per map.

    ``normalized`` (as released): sum over layers of the mean over samples and channels of the
    squared gap between L2-normalised vectors. Otherwise Eq. 12-14 as printed: the mean over samples
    and layers of the squared L2 distance between the plain vectors.
    """
    terms = []
    for a_t, a_s, positions in zip(teacher, student, spatial, strict=True):
        if normalized:
            floor = ENERGY_FLOOR * positions  # the released code averages over space first
            gap = F.normalize(a_s, dim=1, eps=floor) - F.normalize(a_t, dim=1, eps=floor)
            terms.append(gap.square().mean())
        else:
            terms.append((a_s - a_t).square().sum(1).mean() / len(teacher))
    return torch.stack(terms).sum()


def attention_loss(
    teacher: Sequence[Tensor], student: Sequence[Tensor], *, normalized: bool = True
) -> Tensor:
    """Eq. 13-14 over all pairs of maps [N, C, ...]."""
    energies_t, energies_s = ([channel_attention(f) for f in maps] for maps in (teacher, student))
    spatial = [f[0, 0].numel() for f in teacher]
    return energy_loss(energies_t, energies_s, spatial, normalized=normalized)


def distillation_loss(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Eq. 6: ``KL(softmax(t/T) || softmax(s/T))``, summed over classes, averaged over the batch."""
    log_p, log_q = (
        F.log_softmax(x.to(arithmetic_dtype(x.dtype)) / temperature, dim=1)
        for x in (teacher, student)
    )
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def label_log_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """``log p_y``, [N, classes] and [N] -> [N]."""
    wide = logits.to(arithmetic_dtype(logits.dtype))
    return torch.log_softmax(wide, dim=1).gather(1, labels[:, None])[:, 0]


def hard_sample_loss(
    logits: Tensor, labels: Tensor, exponent: float, *, detach: bool = False
) -> tuple[Tensor, Tensor]:
    """Eq. 8, ``mean_i d_i^gamma * CE_i``, and, without gradient, the mean of d (Eq. 7)."""
    log_p = label_log_probability(logits, labels)
    difficulty = 1 - log_p.exp().clamp(max=LARGEST_PROBABILITY)
    weight = difficulty.pow(exponent)
    loss = (-(weight.detach() if detach else weight) * log_p).mean()
    return loss, difficulty.detach().mean()


def plateau_step(
    state: Tensor, rate: Tensor, loss: Tensor, patience: int, factor: float, threshold: float,
    minimum: float,
) -> None:  # fmt: skip
    """One step of torch's ReduceLROnPlateau; ``state`` is float64 [learning rate, best, bad]."""
    learning_rate, best, bad = state.clone()
    current = loss.double()
    better = current < best * (1 - threshold)
    bad = torch.where(better, 0.0, bad + 1)
    stalled = bad > patience
    lower = (learning_rate * factor).clamp(min=minimum)
    change = stalled & (learning_rate - lower > 1e-8)
    state[0] = torch.where(change, lower, learning_rate)
    state[1] = torch.where(better, current, best)
    state[2] = torch.where(stalled, 0.0, bad)
    rate.copy_(state[0])
