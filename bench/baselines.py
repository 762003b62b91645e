"""What the fused ops are compared with, beside the eager references: compilers and libraries."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import torch
from cuda_timing import Candidate
from harness import Options
from timing import Absent
from torch import Tensor, nn

from hast_cuda.ops import reference

COMPILE = "compile"
MODELOPT, BREVITAS = "Model-Optimizer", "Brevitas"


class EagerQuantizer(torch.autograd.Function):
    """The eager reference of a quantizer under autograd, with the clipped gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lower: Tensor, upper: Tensor, bits: int) -> Tensor:
        """Quantize and keep what the mask needs."""
        ctx.save_for_backward(x, lower, upper)
        ctx.bits = bits
        return reference.fake_quantize(x, lower, upper, bits)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient inside the range."""
        x, lower, upper = ctx.saved_tensors
        gradient = reference.fake_quantize_backward(grads[0], x, lower, upper, ctx.bits, clipped=True)
        return gradient, None, None, None


def compiled(
    function: Callable[..., Any], call: Callable[[Callable[..., Any]], object], options: Options
) -> dict[str, Candidate | Absent]:
    """``call`` with ``function`` compiled; on CUDA every candidate is timed in a graph, it too."""
    if not options.compile:
        left_out = Absent("left out with --no-compile")
        return {COMPILE: left_out}
    default = torch.compile(function, dynamic=False)
    return {COMPILE: lambda: call(default)}


def _library(name: str, package: str, module: str, make: Callable[[], Candidate]) -> dict[str, Candidate | Absent]:
    if importlib.util.find_spec(module) is None:
        return {name: Absent(f"{package} is not installed")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the library
        return {name: make()}


def modelopt(make: Callable[[Callable[..., Tensor]], Candidate]) -> dict[str, Candidate | Absent]:
    """``make(fake_tensor_quant)``, called as (x, amax, bias, bits, unsigned, narrow_range)."""

    def build() -> Candidate:
        from modelopt.torch.quantization.tensor_quant import fake_tensor_quant  # noqa: PLC0415

        return make(fake_tensor_quant)

    return _library(MODELOPT, "nvidia-modelopt", "modelopt", build)


def brevitas(make: Callable[[], Candidate]) -> dict[str, Candidate | Absent]:
    """What ``make`` builds, if Brevitas is there to import."""
    return _library(BREVITAS, "brevitas", "brevitas", make)


def brevitas_activation(x: Tensor, device: torch.device, *, observe: bool) -> nn.Module:
    """A 4-bit QuantReLU: on a range found once, or (``observe``) on every batch's own maximum."""
    from brevitas.core.scaling import ScalingImplType  # noqa: PLC0415
    from brevitas.core.stats import StatsOp  # noqa: PLC0415
    from brevitas.nn import QuantReLU  # noqa: PLC0415
    from brevitas.quant import Uint8ActPerTensorFloat  # noqa: PLC0415

    follow = {"scaling_impl_type": ScalingImplType.STATS, "scaling_stats_op": StatsOp.MAX}
    layer: nn.Module = QuantReLU(act_quant=Uint8ActPerTensorFloat, bit_width=4, **(follow if observe else {})).to(
        device
    )
    with torch.no_grad():
        layer(x)  # the first batch sets the range
    return layer if observe else layer.eval()


def brevitas_weight(weight: Tensor) -> Callable[[], Tensor]:
    """Asymmetric 4-bit quantization of one weight; every call finds the range of each channel."""
    from brevitas.nn import QuantConv2d, QuantLinear  # noqa: PLC0415
    from brevitas.quant import ShiftedUint8WeightPerChannelFloat  # noqa: PLC0415

    outputs, inputs = weight.shape[:2]
    settings: dict[str, Any] = {"bias": False, "weight_quant": ShiftedUint8WeightPerChannelFloat, "weight_bit_width": 4}
    layer = (
        QuantLinear(inputs, outputs, **settings)
        if weight.dim() == 2
        else QuantConv2d(inputs, outputs, tuple(weight.shape[2:]), **settings)
    ).to(weight.device)
    layer.weight.data.copy_(weight)
    return lambda: layer.quant_weight().value


def no_such_op() -> dict[str, Candidate | Absent]:
    """The quantization libraries, where the op has no counterpart in them."""
    return {MODELOPT: Absent("has no such op"), BREVITAS: Absent("has no such op")}


def observer(channels: int, device: torch.device, weight: float, axis: int) -> Callable[..., Tensor]:
    """torch's fused observer and quantizer with a state of its own."""
    flag = torch.ones(1, dtype=torch.long, device=device)
    low, high, scale = (torch.ones(channels, device=device) for _ in range(3))
    zero = torch.zeros(channels, dtype=torch.int32, device=device)
    return lambda x: torch.fused_moving_avg_obs_fake_quant(
        x, flag, flag, low, high, scale, zero, weight, 0, 2**4 - 1, max(axis, 0), axis >= 0, False
    )
