"""BatchNorm in eval mode, residual, activation, quantization, attention or distance in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hast_cuda.checks import tensors as _checks
from hast_cuda.ops import _batch_norm, _layout, _workspace, reference
from hast_cuda.ops._registry import DTYPES, core, device_and_stream, pointer, register
from hast_cuda.ops.activations import ACTIVATION_NAMES, activation_code


def _forward(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None,
    bias: Tensor | None, eps: float, act: int, residual: Tensor | None, bounds: Tensor | None,
    bits: int, with_energy: bool, target: Tensor | None, with_map: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    x = _layout.dense(x)
    residual, target = (None if t is None else _layout.like(t, x) for t in (residual, target))
    images, channels = x.shape[:2]
    shape = images, channels, x.numel() // (images * channels), _layout.is_channels_last(x)
    y = torch.empty_like(x)
    normalized = torch.empty_like(x) if with_map else x.new_empty(0)
    energy = running_mean.new_empty((images, channels) if with_energy else 0)
    scratch, counters = None, 0
    if with_energy and shape[3]:
        count = _workspace.batch_norm_activation_scratch(x, shape)
        scratch = _workspace.scratch(x, count, torch.float64)
        counters = _workspace.counters(x, images * -(-channels // _workspace.NARROWEST_TILE))
    core.batch_norm_activation(
        pointer(x), pointer(residual), pointer(target), pointer(y),
        pointer(energy) if with_energy else 0, pointer(normalized) if with_map else 0,
        pointer(running_mean), pointer(running_var), pointer(weight), pointer(bias), eps,
        pointer(bounds), bits, pointer(scratch), counters, DTYPES[x.dtype], *shape, act,
        *device_and_stream(x),
    )  # fmt: skip
    return y, energy, normalized


def _forward_reference(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None,
    bias: Tensor | None, eps: float, act: int, residual: Tensor | None, bounds: Tensor | None,
    bits: int, with_energy: bool, target: Tensor | None, with_map: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    y, energy, normalized = reference.batch_norm_activation(
        x, running_mean, running_var, weight, bias, eps, activation=ACTIVATION_NAMES[act],
        residual=residual, bounds=bounds, bits=bits, target=target,
    )  # fmt: skip
    return (
        y, energy if with_energy else energy.new_empty(0),
        normalized if with_map else x.new_empty(0),
    )  # fmt: skip


_batch_norm_activation = register(
    "batch_norm_activation(Tensor x, Tensor running_mean, Tensor running_var, Tensor? weight,"
    " Tensor? bias, float eps, int activation, Tensor? residual, Tensor? bounds, int bits,"
    " bool with_energy, Tensor? target, bool with_map) -> (Tensor, Tensor, Tensor)",
    _forward,
    _forward_reference,
    lambda x, mean, var, w, b, eps, act, residual, bounds, bits, with_energy, target, with_map: (
        torch.empty_like(x),
        mean.new_empty(x.shape[:2] if with_energy else 0),
        torch.empty_like(x) if with_map else x.new_empty(0),
    ),
)


class _BatchNormActivation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None,
        bias: Tensor | None, eps: float, act: int, residual: Tensor | None, bounds: Tensor | None,
        bits: int, clipped: bool, with_energy: bool, target: Tensor | None, with_map: bool,
        twice: bool,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        outputs: tuple[Tensor, Tensor, Tensor] = _batch_norm_activation(
            x, running_mean, running_var, weight, bias, eps, act, residual, bounds, bits,
            with_energy, target, with_map,
        )  # fmt: skip
        gate = _batch_norm.choose_gate(
            gated=bool(act) or clipped,
            output_tells=bounds is None,  # 0 may be a small positive value, rounded
            reads_x=with_energy or ctx.needs_input_grad[3] or ctx.needs_input_grad[4],
            with_residual=residual is not None,
        )
        by_input = gate == _batch_norm.GATE_BY_INPUT
        ctx.save_for_backward(
            x, running_mean, running_var, weight, bias,
            outputs[0] if gate == _batch_norm.GATE_BY_OUTPUT else None,
            residual if by_input else None,
            bounds if clipped else None,
            target,
        )  # fmt: skip
        ctx.settings = eps, act, gate, bits
        ctx.set_materialize_grads(False)
        return (*outputs, outputs[0].detach()) if twice else outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        x, running_mean, running_var, weight, bias, y, residual, bounds, target = ctx.saved_tensors
        eps, act, gate, bits = ctx.settings
        (dy, dy2), denergy, dmap = _batch_norm.upstream(grads[0], *grads[3:]), grads[1], grads[2]
        needs = ctx.needs_input_grad
        if dy is None and denergy is None and dmap is None:
            return (None,) * len(needs)
        need_residual = needs[7] and dy is not None
        need_affine = needs[3] or needs[4]
        need_target = needs[12] and denergy is not None
        changed = bool(gate) or dy2 is not None
        dx, dresidual, dweight, dbias, dtarget = _batch_norm.backward(
            dy, dy2, None, None, denergy, dmap, x, y, residual,
            None if denergy is None else target, None, running_mean, running_var, weight, bias,
            eps, bounds, bits, act, gate, need_residual and changed, need_affine, need_target,
        )  # fmt: skip
        if not changed:
            dresidual = dy  # nothing stops it: no copy
        return (
            dx if needs[0] else None, None, None, dweight if needs[3] else None,
            dbias if needs[4] else None, None, None, dresidual if need_residual else None,
            None, None, None, None, dtarget if need_target else None, None, None,
        )  # fmt: skip


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
    """
    _checks.floating("x", x)
    code = activation_code(activation)
    _checks.choice("ste", ste, _checks.STE)
    ready = _batch_norm.parameters(x, running_mean, running_var, weight, bias)
    _batch_norm.check_alike("residual", residual, x)
    _batch_norm.check_alike("target", target, x)
    _checks.not_negative("eps", eps)
    _checks.flag("energy", energy)
    _checks.flag("normalized", normalized)
    _checks.flag("twice", twice)
    if target is not None and not energy:
        message = "target is what energy=True measures the distance from, but energy is False"
        raise ValueError(message)
    _checks.bit_width("bits", bits)
    bounds = None
    if state is not None:
        _checks.range_state(state, x)
        bounds = state.detach()[:2]
    y, energies, u, *again = _BatchNormActivation.apply(
        x, *ready, eps, code, residual, bounds, bits, state is not None and ste == "clipped",
        energy, target, normalized, twice,
    )  # fmt: skip
    return y, energies if energy else None, *([u] if normalized else []), *again
