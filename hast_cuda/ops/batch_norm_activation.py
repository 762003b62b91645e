"""BatchNorm in eval mode, residual, activation, quantization, attention or distance in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hast_cuda.checks import tensors as _checks
from hast_cuda.ops import _autograd, _layout, _workspace
from hast_cuda.ops._registry import core, launch, operator, pointer
from hast_cuda.ops.activations import CODES, activate, activation_code
from hast_cuda.ops.arithmetic import arithmetic_dtype
from hast_cuda.ops.batch_norm import affine, check_alike, parameters
from hast_cuda.ops.batch_norm_backward import GATE_BY_INPUT, GATE_BY_OUTPUT, batch_norm_backward, choose_gate, upstream
from hast_cuda.ops.channel_attention import channel_attention_reference
from hast_cuda.ops.codes import Pointer
from hast_cuda.ops.fake_quantize import fake_quantize_reference


def batch_norm_activation_reference(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None,
    bias: Tensor | None, eps: float, *, activation: str | None = None,
    residual: Tensor | None = None, bounds: Tensor | None = None, bits: int = 4,
    target: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """``Q(act(u + residual))`` with ``u`` the eval-mode BatchNorm, Eq. 14 of ``u - target``, and u.

    Under autograd the quantizer is straight-through: the gradient of the identity.
    """
    dtype = arithmetic_dtype(x.dtype)
    u = affine(x.to(dtype), running_mean, running_var, weight, bias, eps)
    v = u if residual is None else u + residual.to(dtype)
    y = activate(v, activation)
    if bounds is not None:
        quantized = fake_quantize_reference(y.detach(), bounds[0:1], bounds[1:2], bits)
        # y + (quantized - y) would round twice
        y = quantized + (y - y.detach()) if y.requires_grad else quantized
    apart = u if target is None else u - target.to(dtype)
    energy = channel_attention_reference(apart) if u.dim() > 2 else apart.square()
    return y.to(x.dtype), energy, u.to(x.dtype)


def _outputs(x: Tensor, running_mean: Tensor, with_energy: bool, with_map: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Empty (y, energy, u); nothing where it is not wanted."""
    energy = running_mean.new_empty(x.shape[:2] if with_energy else 0)
    return torch.empty_like(x), energy, torch.empty_like(x) if with_map else x.new_empty(0)


def _wanted_reference(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None,
    bias: Tensor | None, eps: float, activation: str | None, residual: Tensor | None,
    bounds: Tensor | None, bits: int, with_energy: bool, target: Tensor | None, with_map: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    y, energy, normalized = batch_norm_activation_reference(
        x, running_mean, running_var, weight, bias, eps, activation=activation,
        residual=residual, bounds=bounds, bits=bits, target=target,
    )  # fmt: skip
    _, no_energy, no_map = _outputs(x, running_mean, with_energy=False, with_map=False)
    return y, energy if with_energy else no_energy, normalized if with_map else no_map


@operator(_wanted_reference, _outputs)
def _batch_norm_activation(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None,
    bias: Tensor | None, eps: float, activation: str | None, residual: Tensor | None,
    bounds: Tensor | None, bits: int, with_energy: bool, target: Tensor | None, with_map: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    x = _layout.dense(x)
    residual, target = (None if t is None else _layout.like(t, x) for t in (residual, target))
    (images, channels), place = x.shape[:2], launch(x)
    spatial, channels_last = x.numel() // (images * channels), _layout.is_channels_last(x)
    results = _outputs(x, running_mean, with_energy, with_map)
    y, energy, normalized = map(pointer, results)
    scratch, counters = None, Pointer(0)
    if with_energy and channels_last:
        count = core.batch_norm_activation_scratch(
            images=images, channels=channels, spatial=spatial, channels_last=channels_last,
            device=place["device"],
        )  # fmt: skip
        scratch = _workspace.scratch(x, count, torch.float64)
        counters = _workspace.counters(x, images * -(-channels // _workspace.NARROWEST_TILE))
    core.batch_norm_activation(
        x=pointer(x), residual=pointer(residual), target=pointer(target), y=y, energy=energy,
        map=normalized, running_mean=pointer(running_mean), running_var=pointer(running_var),
        weight=pointer(weight), bias=pointer(bias), eps=eps, range=pointer(bounds), bits=bits,
        scratch=pointer(scratch), counters=counters, images=images, channels=channels,
        spatial=spatial, channels_last=channels_last, activation=CODES[activation], **place,
    )  # fmt: skip
    return results


class _BatchNormActivation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None,
        bias: Tensor | None, eps: float, activation: str | None, residual: Tensor | None,
        bounds: Tensor | None, bits: int, clipped: bool, with_energy: bool, target: Tensor | None,
        with_map: bool, twice: bool,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        outputs = _batch_norm_activation(
            x, running_mean, running_var, weight, bias, eps, activation, residual, bounds, bits,
            with_energy, target, with_map,
        )  # fmt: skip
        if True not in ctx.needs_input_grad:  # nobody will ask: what follows costs as much as a small map
            return (*outputs, outputs[0].detach()) if twice else outputs
        gate = choose_gate(
            gated=activation is not None or clipped,
            output_tells=bounds is None,  # 0 may be a small positive value, rounded
            reads_x=with_energy or ctx.needs_input_grad[3] or ctx.needs_input_grad[4],
            with_residual=residual is not None,
        )
        by_input = gate == GATE_BY_INPUT
        ctx.save_for_backward(
            x, running_mean, running_var, weight, bias,
            outputs[0] if gate == GATE_BY_OUTPUT else None,
            residual if by_input else None,
            bounds if clipped else None,
            target,
        )  # fmt: skip
        ctx.settings = eps, activation, gate, bits
        ctx.set_materialize_grads(False)
        return (*outputs, outputs[0].detach()) if twice else outputs

    @staticmethod
    @_autograd.once
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        x, running_mean, running_var, weight, bias, y, residual, bounds, target = ctx.saved_tensors
        eps, activation, gate, bits = ctx.settings
        (dy, dy2), denergy, dmap = upstream(grads[0], *grads[3:]), grads[1], grads[2]
        needs = ctx.needs_input_grad
        if dy is None and denergy is None and dmap is None:
            return (None,) * len(needs)
        need_residual = needs[7] and dy is not None
        need_affine = needs[3] or needs[4]
        need_target = needs[12] and denergy is not None
        changed = bool(gate) or dy2 is not None
        given, norm = (dy, dy2, None, None, denergy, dmap), (running_mean, running_var, weight, bias, eps)
        maps = x, y, residual, None if denergy is None else target
        needed = need_residual and changed, need_affine, need_target
        dx, dresidual, dweight, dbias, dtarget = batch_norm_backward(
            *given, *maps, None, *norm, bounds, bits, activation, gate, *needed
        )
        passed = dresidual if changed else dy  # where nothing stops it, no copy
        found: dict[int, Any] = {0: dx, 3: dweight, 4: dbias}  # by argument of forward
        found |= ({7: passed} if need_residual else {}) | ({12: dtarget} if need_target else {})
        return tuple(found.get(index) if need else None for index, need in enumerate(needs))


def batch_norm_activation(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None = None,
    bias: Tensor | None = None, eps: float = 1e-5, *, activation: str | None = None,
    residual: Tensor | None = None, state: Tensor | None = None, bits: int = 4,
    ste: str = "identity", energy: bool = False, target: Tensor | None = None,
    normalized: bool = False, twice: bool = False,
) -> tuple[Any, ...]:  # fmt: skip
    """Eval-mode BatchNorm and what follows it, from one read of ``x`` (Eq. 1-2 and 14).

    ``u = weight*(x - running_mean)/sqrt(running_var + eps) + bias``,
    ``y = Q(act(u + residual))``, ``a[n, c] = sum over space of (u - target)^2``.

    Args:
        x: [N, C, ...], contiguous or channels_last; float32, float16, bfloat16 or float64.
        running_mean: [C], and likewise ``running_var``, ``weight`` and ``bias`` (None = 1 and 0).
        eps: added to ``running_var``.
        activation: None, "relu" or "relu6".
        residual: tensor like ``x``, added before the activation.
        state: frozen range [5] from :func:`new_range_state`; None does not quantize.
        bits: 2 to 8, of the quantizer.
        ste: "identity" or "clipped", see :func:`fake_quantize`; the activation masks in both.
        energy: also return a, the channel attention of ``u`` where there is no target.
        target: tensor like ``x``, such as the same map of another network; None = 0.
        normalized: also return ``u``.
        twice: also return y a second time, as an alias, for a network that uses it twice: both
            gradients are then added up in the backward kernel.

    Returns:
        (y like ``x``, a [N, C] in float32 or float64, or None), with ``normalized`` u like ``x``,
        and with ``twice`` y again. Gradients flow from all to x, weight, bias and residual, and
        from a to the target; none to the range.

    Raises:
        TypeError: wrong dtype. ValueError: shapes or devices that differ, no elements, a target
            without ``energy``.

    Example:
        >>> import hast_cuda as hc
        >>> x, norm = torch.randn(4, 8, 5, 5), torch.nn.BatchNorm2d(8).eval()
        >>> y, *_ = hc.batch_norm_activation(x, norm.running_mean, norm.running_var, activation="relu")
        >>> torch.allclose(y, norm(x).relu(), atol=1e-6)  # equivalent to
        True
    """
    _checks.floating("x", x)
    activation_code(activation)
    _checks.choice("ste", ste, _checks.STE)
    ready = parameters(x, running_mean, running_var, weight, bias)
    check_alike("residual", residual, x)
    check_alike("target", target, x)
    _checks.not_negative("eps", eps)
    _checks.flag("energy", energy)
    _checks.flag("normalized", normalized)
    _checks.flag("twice", twice)
    if target is not None and not energy:
        raise ValueError("target is what energy=True measures the distance from, but energy is False")
    _checks.bit_width("bits", bits)
    bounds = None
    if state is not None:
        _checks.range_state(state, x)
        bounds = state.detach()[:2]
    y, energies, u, *again = _autograd.apply(
        _BatchNormActivation, x, *ready, eps, activation, residual, bounds, bits,
        state is not None and ste == "clipped", energy, target, normalized, twice,
    )  # fmt: skip
    return y, energies if energy else None, *([u] if normalized else []), *again
