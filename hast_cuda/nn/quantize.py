"""From a pretrained network to a fake-quantized one: a copy with swapped modules."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from hast_cuda.checks import tensors as _checks
from hast_cuda.checks.typed import typed
from hast_cuda.loops.modes import copied
from hast_cuda.loops.warn import warn_caller
from hast_cuda.networks.in_place import activations_read_again
from hast_cuda.networks.readable import require_readable
from hast_cuda.networks.swap import swap_modules
from hast_cuda.nn.around import quantize_around
from hast_cuda.nn.override import Override, end_overrides
from hast_cuda.nn.placement import PLACEMENTS, suitable_placement
from hast_cuda.nn.table import NOT_QUANTIZED, QuantizationTable
from hast_cuda.nn.uses import Uses
from hast_cuda.nn.walk import Walk
from hast_cuda.nn.wide_inputs import wide_inputs
from hast_cuda.ops.update_range import EMA


@typed
def quantize(
    model: nn.Module,
    weight_bits: int = 4,
    act_bits: int | None = 4,
    *,
    placement: str = "relu",
    overrides: Mapping[str, Override] | None = None,
    ema: str = "corrected",
    ste: str = "identity",
    zero_point: str = "integer",
    sum_bits: int = 8,
    first_last_bits: int | None = None,
    symmetric_weights: bool = False,
) -> nn.Module:
    """A fake-quantized copy of ``model``; the argument is never edited.

    Every Conv2d and Linear weight is quantized per output channel (Eq. 1-2), bias and BatchNorm
    stay in full precision. Activation ranges are empty until :func:`hast_cuda.calibrate` has seen
    images.

    Args:
        model: any ``nn.Module``; modules are found by type, wherever they are.
        weight_bits: 2 to 8.
        act_bits: 2 to 8, or None for weights only.
        placement: "auto" is "relu" or "all", see :func:`hast_cuda.nn.suitable_placement`; "relu"
            quantizes the outputs of ReLU and ReLU6 modules (the published code); "all"
            quantizes the input of every convolution and linear layer: outputs of activation
            functions, and with ``sum_bits`` images, pooled features, linear bottlenecks and sums; "integer"
            quantizes every tensor that an integer runtime stores: the outputs of activations, and
            with ``sum_bits`` the image, pooled features, and whatever enters or leaves a sum, a
            concatenation, a pool or another layer without an activation. Inputs of a concatenation
            share one grid. Logits stay float.
        overrides: ``{"features.init*": Override(8, 8)}``, shell patterns over module names; the
            last match wins; None in an Override keeps that part in full precision.
        ema: range tracking, "corrected" or "released".
        ste: activation gradient, "identity" or "clipped".
        zero_point: weight zero point, "integer" or "real".
        sum_bits: 2 to 8, of what placement "integer" quantizes beside activations, and of what no
            activation function gave under "all".
        first_last_bits: 2 to 8, of the weights and inputs of the first and the last layer, in every
            placement; ``overrides`` come after it. None: like the rest.
        symmetric_weights: weights have zero point 0, which some integer runtimes ask for, on a grid
            that stays: of the largest magnitude, ``S = (2^(bits-1) - 1) / max |w|``.

    Returns:
        The copy, each module in the mode it had; its table: :func:`hast_cuda.quantization_table`.

    Raises:
        TypeError, ValueError: bits or choices out of range, a pattern that matches no layer, a
            network with nothing to quantize, weights that are not finite (named); of placement
            "integer", a network that torch.fx cannot follow, and a value that no quantizer can
            reach (named).

    Example:
        >>> import hast_cuda as hc
        >>> student = hc.quantize(hc.load_teacher("digits"), 4, 4)
        >>> student.output
        FakeQuantLinear(in_features=10, out_features=10, bias=True, weight_bits=4)
    """
    default = Override(weight_bits, act_bits)
    if symmetric_weights and zero_point == "real":
        raise ValueError('symmetric_weights is True, zero_point="real": zero is no level of that grid')
    _checks.choice("placement", placement, PLACEMENTS)
    _checks.choice("ema", ema, EMA)
    _checks.choice("ste", ste, _checks.STE)
    _checks.choice("zero_point", zero_point, _checks.ZERO_POINTS)
    _checks.bit_width("sum_bits", sum_bits)
    if placement == "auto":
        placement = suitable_placement(model)
    if placement == "integer" and act_bits is None:
        raise ValueError('act_bits is None; placement="integer" needs bits for activations')
    ends: Mapping[str, Override] = {}
    if first_last_bits is not None:
        _checks.bit_width("first_last_bits", first_last_bits)
        ends = end_overrides(model, first_last_bits, placement)
    if isinstance(getattr(model, "quantization_table", None), QuantizationTable):
        raise ValueError("the network is already quantized: give the full-precision network that it was made from")
    require_readable(model)
    student = copied(model)
    uses = Uses(student)
    walk = Walk(
        default,
        placement,
        {**ends, **(overrides or {})},
        ema,
        ste,
        zero_point,
        () if placement == "all" else activations_read_again(student),
        next((p.device for p in model.parameters()), None),
        sum_bits,
        symmetric_weights,
        uses.shared,
        wide_inputs(model) if placement == "all" else (),
    )
    if placement == "integer":
        walk.find_outputs(student)
    student = swap_modules(student, walk.convert)
    student = quantize_around(student, walk.entries, walk.outputs)
    table = QuantizationTable(tuple(walk.rows))
    if not any(row.weight_bits for row in table.rows):
        raise ValueError(f"the network has no Conv2d or Linear layer to quantize{_listed(table)}")
    unused = [p for p in walk.overrides if p not in walk.used]
    if unused:
        raise ValueError(
            f"overrides match no layer: {unused}; names look like {table.rows[0].name!r}, and "
            "'block.*' covers every layer of a block"
        )
    _warn_of_the_rest(table, uses, placement, activations=act_bits is not None)
    student.quantization_table = table  # type: ignore[assignment]  # read by quantization_table()
    return student


def _listed(table: QuantizationTable) -> str:
    """The first layers that stay in full precision, with the reasons."""
    left = [f"{row.name!r} ({row.kind}): {row.note.removeprefix(NOT_QUANTIZED)}" for row in table.left]
    return f": {'; '.join(left[:4])}" + (f"; and {len(left) - 4} more" if len(left) > 4 else "") if left else ""


def _warn_of_the_rest(table: QuantizationTable, uses: Uses, placement: str, *, activations: bool) -> None:
    """Say what stays in full precision though nobody asked for that."""
    if activations and not table.quantized_activations:
        warn_caller(
            "no activation is quantized: the network has no nn.ReLU or nn.ReLU6 module (functional "
            'calls cannot be seen). Use placement="all", which quantizes the inputs of layers.',
            UserWarning,
        )
    elif activations and placement == "relu" and uses.activations:
        warn_caller(
            f"calls of functions such as F.relu ({uses.activations} of them) are not quantized, modules are. "
            'Use placement="all", which quantizes the inputs of layers.',
            UserWarning,
        )
    if uses.layers:
        warn_caller(
            f"calls of functions such as F.conv2d and F.linear ({uses.layers} of them) keep their weights in full "
            "precision: call nn.Conv2d and nn.Linear layers instead",
            UserWarning,
        )
    if table.left:
        warn_caller(f"{len(table.left)} layers stay in full precision{_listed(table)}", UserWarning)
