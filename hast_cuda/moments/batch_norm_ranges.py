"""Activation ranges without a single image, from BatchNorm parameters (DFQ, ICCV 2019)."""

from __future__ import annotations

import torch
from torch import nn

from hast_cuda.checks import tensors as _checks
from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import check_range
from hast_cuda.moments.distribution import Distribution
from hast_cuda.moments.propagation import Known, input_distributions
from hast_cuda.moments.range_search import smallest_error_range
from hast_cuda.networks.tracing import CannotMergeError
from hast_cuda.nn.activation import FakeQuantActivation
from hast_cuda.nn.calibrate import activation_quantizers

_INPUT = ".input_quantizer"  # of a layer, which is one node of the graph
_ADVICE = (
    'calibrate the network with images instead (hast_cuda.calibrate; in a recipe finetune.calibration="generator", '
    'which makes them, or "images" where it has some)'
)


@typed
@torch.no_grad()
def batch_norm_ranges(model: nn.Module, width: float = 6.0, *, narrow: bool = False) -> nn.Module:
    """Set and freeze every activation range of ``model`` from BatchNorm parameters alone.

    A BatchNorm gives channel c as N(beta_c, gamma_c^2); residual sums add means and variances, and
    ReLU gives a clipped Gaussian. The range is ``[min_c(mean - width*std), max_c(mean +
    width*std)]``, cut to what the activation can give; of another activation function, its smallest
    and largest value in there. Image pixels count as N(0, 1).

    Terms of a residual sum count as independent. In trained networks they are not, and the spread
    behind many blocks is larger than computed: ``width`` is also a margin for that. ``width=0`` has
    no margin; it suits networks without long chains of sums.

    Args:
        model: from :func:`hast_cuda.quantize`; edited. Its convolutions may have taken up their
            BatchNorm (:func:`hast_cuda.posttraining.fold_batch_norms`).
        width: standard deviations on each side; 0 chooses the range with the smallest expected
            squared error under the same model, for each quantizer's bits.
        narrow: no more than ``min(b, 2 + b/2)`` deviations for b bits, 3 at 3 bits, 4 at 4, 6 at 8: few levels
            serve most where most values are.

    Returns:
        ``model`` itself.

    Raises:
        ValueError: torch.fx cannot follow the network, a BatchNorm does more than that, or no
            statistics reach a quantizer; no range is changed then.

    Example:
        >>> import hast_cuda as hc
        >>> student = batch_norm_ranges(hc.quantize(hc.load_teacher("digits"), 4, 4))
        >>> student.stem[2].frozen
        tensor(True)
    """
    _checks.not_negative("width", width)
    check_range("width", width, 0, 1e6)
    quantizers = activation_quantizers(model)
    if not quantizers:
        return model
    try:
        inputs = input_distributions(model)
    except CannotMergeError as reason:
        raise ValueError(f"no ranges from BatchNorm parameters: {reason}; {_ADVICE}") from reason
    ranges = {
        name: _range(_seen(name, inputs), quantizer, _narrow(width, quantizer.bits) if narrow else width, name)
        for name, quantizer in quantizers.items()
    }
    for name, quantizer in quantizers.items():
        chosen = ranges[name]
        if chosen is not None:
            quantizer.set_range(*chosen)
        quantizer.freeze()
    return model


def _narrow(width: float, bits: int) -> float:
    """See ``narrow`` above; 0 stays the least error."""
    return min(width, bits, 2 + bits / 2) if width else width


def _seen(name: str, inputs: dict[str, list[Known]]) -> list[Known]:
    """What a quantizer sees; nothing if the forward pass never reaches it."""
    for called in (name, name.removesuffix(_INPUT)):
        if called in inputs:
            return inputs[called]
    parents = [name[:i] for i, letter in enumerate(name) if letter == "."]
    return [None] if any(parent in inputs for parent in parents) else []


def _range(seen: list[Known], quantizer: FakeQuantActivation, width: float, name: str) -> tuple[float, float] | None:
    known: list[Distribution] = []
    for distribution in seen:
        if distribution is None:
            raise ValueError(
                f"the distribution in front of the quantizer {name!r} is unknown: BatchNorm "
                "statistics do not reach it through sums, activation functions and pooling; "
                f"{_ADVICE}"
            )
        if not bool(torch.isfinite(distribution.mean + distribution.std).all()):
            raise ValueError(f"the BatchNorm parameters in front of the quantizer {name!r} are not finite")
        known.append(distribution.activated(quantizer.activation))
    if not known:
        return None
    if not width:
        return smallest_error_range(known, quantizer.bits)
    ends = [distribution.bounds(width) for distribution in known]
    return min(low for low, _ in ends), max(high for _, high in ends)
