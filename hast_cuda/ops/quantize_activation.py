"""Activation, range tracking and quantization: two kernels while observing, then one."""

from __future__ import annotations

from torch import Tensor

from hast_cuda.checks import tensors as _checks
from hast_cuda.ops import _autograd
from hast_cuda.ops.activations import activation_code
from hast_cuda.ops.fake_quantize import FakeQuantizeFunction
from hast_cuda.ops.update_range import EMA, update_range_


def quantize_activation(
    x: Tensor,
    state: Tensor,
    bits: int,
    *,
    activation: str | None = None,
    observe: bool = False,
    ema: str = "corrected",
    beta: float = 0.9,
    ste: str = "identity",
    zero_point: str = "integer",
) -> Tensor:
    """Activation, range tracking and quantization of one tensor; the range never leaves the device.

    Args:
        x: activations of any shape; float32, float16, bfloat16 or float64.
        state: [5], from :func:`new_range_state`, float32 (float64 for float64 ``x``); updated in
            place when ``observe``: m = beta*m + (1-beta)*(min, max), range = m / (1 - beta^t).
        bits: 2 to 8.
        activation: None, "relu" or "relu6", fused in front.
        observe: update the range before quantizing; otherwise it is frozen and nothing is reduced.
        ema: "corrected", or "released" for the published recursion that feeds corrected values
            back.
        beta: decay of the moving average, in [0, 1).
        ste: "identity" or "clipped", see :func:`fake_quantize`; the activation masks in both.
        zero_point: "integer" or "real".

    Returns:
        Tensor like ``x``. No gradient flows to the range.

    Raises:
        TypeError, ValueError: as :func:`fake_quantize`; wrong state shape, dtype or device.

    Example:
        >>> import hast_cuda as hc
        >>> x, state = torch.randn(1000), hc.new_range_state()
        >>> y = hc.quantize_activation(x, state, 4, activation="relu", observe=True)
        >>> high = float(x.max())  # equivalent to ReLU, then one range for the whole tensor:
        >>> torch.allclose(y, hc.fake_quantize(x.relu(), 0.0, high, 4))
        True
    """
    _checks.floating("x", x)
    _checks.bit_width("bits", bits)
    _checks.choice("zero_point", zero_point, _checks.ZERO_POINTS)
    _checks.choice("ste", ste, _checks.STE)
    _checks.choice("ema", ema, EMA)
    activation_code(activation)
    _checks.range_state(state, x)
    _checks.decay(beta)
    _checks.flag("observe", observe)
    if observe:
        update_range_(x.detach(), state, activation, beta, ema == "released")
    clipped = ste == "clipped"
    # A later update must not change the range that this call's clipped gradient will look at.
    bounds = state.clone() if observe and clipped else state
    bounds = bounds.detach() if bounds.requires_grad else bounds
    lower, upper, _ = bounds.split_with_sizes((1, 1, 3))
    settings = bits, None, zero_point == "real", activation, clipped
    y: Tensor = _autograd.apply(FakeQuantizeFunction, x, lower, upper, *settings)
    return y
