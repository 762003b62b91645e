"""What biases can do about ranges and rounding errors (DFQ, ICCV 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hast_cuda.checks.typed import typed
from hast_cuda.moments.propagation import Known, input_distributions
from hast_cuda.networks.layer_graph import LayerGraph
from hast_cuda.networks.statistics import output_moments, set_output_moments
from hast_cuda.networks.tracing import CannotMergeError
from hast_cuda.nn import FakeQuantConv2d, FakeQuantLinear
from hast_cuda.posttraining.channels import ensure_bias, through_weights


@typed
@torch.no_grad()
def absorb_biases(model: nn.Module) -> nn.Module:
    """Move the part of a bias that ReLU almost never cuts behind the next layer.

    With a first layer's outputs N(beta, gamma^2), ``c = max(0, beta - 3*gamma)``: ``b1 -= c``,
    ``b2 += sum of W2 over positions * c``. Values above c, all but one in a thousand, pass ReLU
    as before, so activations have smaller ranges and outputs stay nearly the same (zero padding
    counts as c at the border).

    Args:
        model: folded float network (:func:`fold_batch_norms`), edited. Pairs as in
            :func:`hast_cuda.posttraining.equalize` with only ReLU between; layers that remember no
            moments are left alone.

    Returns:
        ``model`` itself.

    Raises:
        ValueError: torch.fx cannot follow the network.

    Example:
        >>> import hast_cuda as hc
        >>> from hast_cuda.posttraining import fold_batch_norms
        >>> network = absorb_biases(fold_batch_norms(hc.load_teacher("digits")))
    """
    for pair in LayerGraph(model).pairs():
        moments, bias = output_moments(pair.first), pair.first.bias
        if not pair.rectified or moments is None or bias is None:
            continue
        mean, std = (moment.to(bias) for moment in moments)
        moved = (mean - 3 * std).clamp(min=0)
        bias -= moved
        set_output_moments(pair.first, mean - moved, std)
        ensure_bias(pair.second)
        assert pair.second.bias is not None
        pair.second.bias += through_weights(pair.second, pair.second.weight, moved)
    return model


@typed
@torch.no_grad()
def correct_biases(student: nn.Module, model: nn.Module) -> nn.Module:
    """Take the expected error of every quantized layer's output out of its bias.

    With ``eps = Q(W) - W`` (Q with the student's own bits, ranges and rounding) and the expected
    inputs of ``model``: ``b -= sum of eps over positions * E[x]``. Behind a BatchNorm N(beta,
    gamma^2) with ReLU, ``E[x] = gamma*phi(beta/gamma) + beta*Phi(beta/gamma)``. A layer without
    bias gets one; a layer whose expected input no BatchNorm tells is left alone. Doing it twice
    corrects twice.

    Args:
        student: ``hast_cuda.quantize(model, ...)`` with its final weights; edited.
        model: the float network that it was made from, with BatchNorm or folded.

    Returns:
        ``student`` itself.

    Raises:
        ValueError: torch.fx cannot follow the network; a BatchNorm does more than that; the student
            is not one of ``model``.

    Example:
        >>> import hast_cuda as hc
        >>> teacher = hc.load_teacher("digits")
        >>> student = correct_biases(hc.quantize(teacher, 4, 4), teacher)
    """
    try:
        inputs = input_distributions(model)
    except CannotMergeError as reason:
        raise ValueError(f"expected inputs are unknown: {reason}; use the network without bias correction") from reason
    modules = dict(model.named_modules())
    for name, layer in student.named_modules():
        if not isinstance(layer, (FakeQuantConv2d, FakeQuantLinear)):
            continue
        source = modules.get(name)
        exact = getattr(source, "weight", None)
        if not isinstance(exact, Tensor) or exact.shape != layer.weight.shape:
            raise ValueError(
                f"layer {name!r} of the student has no counterpart in model; give the network that "
                "hast_cuda.quantize made the student of"
            )
        expected = _expected(inputs.get(name, []), layer)
        if expected is not None:
            error = (layer.quantized_weight() - exact.to(layer.weight.device)).double().cpu()
            ensure_bias(layer)
            assert layer.bias is not None
            shift = through_weights(layer, error, expected)
            layer.bias -= shift.to(layer.bias.device, layer.bias.dtype)
    return student


def _expected(seen: list[Known], layer: FakeQuantConv2d | FakeQuantLinear) -> Tensor | None:
    """Mean input per channel, [in], over all calls of a layer; None if it is not known."""
    convolution = isinstance(layer, FakeQuantConv2d)
    channels = layer.in_channels if isinstance(layer, FakeQuantConv2d) else layer.in_features
    means = []
    for distribution in seen:
        if distribution is None:
            return None
        mean, _ = distribution.moments()
        times, rest = divmod(channels, len(mean))
        if rest or (convolution and len(mean) not in (1, channels)):
            return None
        # Flattening puts a channel's positions next to one another.
        means.append(mean.repeat_interleave(times))
    return torch.stack(means).mean(0) if means else None
