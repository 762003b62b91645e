"""Bits for every layer within a budget, of the smallest sum of what the layers lose alone."""

from __future__ import annotations

import glob
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hast_cuda.analysis.knapsack import choose
from hast_cuda.analysis.sensitivity import LARGEST, LayerSensitivity
from hast_cuda.checks import tensors as _checks
from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import check_range
from hast_cuda.exports.packed_weight import packed_size
from hast_cuda.nn import Override

Layers = Mapping[str, LayerSensitivity]
POINTS = 25  # of a curve: every quarter of a bit from 2 to 8


@dataclass(frozen=True)
class Allocation:
    """Widths of weights, and what they come to.

    Example:
        >>> layer = LayerSensitivity(weights={2: 0.5, 8: 0.0}, parameters=100)
        >>> [point.size for point in bit_curve({"stem": layer})]
        [25, 100]
    """

    widths: dict[str, int]
    """By layer."""
    size: int
    """Bytes of all codes; scales, biases and BatchNorm come on top."""
    average: float
    """Bits of a weight."""
    divergence: float
    """Sum of what the layers lose, each quantized alone, in nats."""


@typed
def allocate_bits(
    sensitivity: Mapping[str, LayerSensitivity],
    *,
    average_bits: float | None = None,
    size: int | None = None,
    bit_operations: int | None = None,
    average_act_bits: float | None = None,
    act_bits: int | None = 4,
    sum_bits: int = 8,
    widths: Sequence[int] | None = None,
) -> dict[str, Override]:
    """Bits of every layer: the smallest sum of divergences within a budget, found exactly.

    One budget is for the weights. Activations have one width, or a budget of their own.

    Args:
        sensitivity: from :func:`hast_cuda.sensitivity`.
        average_bits: the most bits of a weight, on average.
        size: the most bytes of all weights, as :func:`hast_cuda.exports.save_packed` packs their codes.
        bit_operations: the most multiplications of an image times bits of the weight, summed over the
            layers; times the bits of the activations, if these are all alike, it is the number of
            operations on bits.
        average_act_bits: the most bits of an activation, on average over all that are quantized for an
            image; None: each has ``act_bits``, or ``sum_bits`` where ``placement="integer"`` has those.
        act_bits: 2 to 8, or None for full precision.
        sum_bits: 2 to 8.
        widths: to choose from; None: all that were measured.

    Returns:
        ``overrides`` for :func:`hast_cuda.quantize` and :class:`hast_cuda.Bits`, by module name.

    Raises:
        ValueError: no budget for weights or several, one that is too small (the smallest is named), a
            width that was not measured. ImportError: no scipy.

    Example:
        >>> import hast_cuda as hc
        >>> teacher = hc.load_teacher("digits")
        >>> found = hc.sensitivity(teacher, torch.randn(8, 1, 8, 8), bits=(2, 4, 8))
        >>> student = hc.quantize(teacher, 4, 4, overrides=hc.allocate_bits(found, average_bits=3.5))
        >>> {layer.weight_bits for layer in student.modules() if isinstance(layer, hc.FakeQuantConv2d)}
        {8, 2, 4}
    """
    weights = {name: layer for name, layer in sensitivity.items() if layer.weights}
    wanted = {"average_bits": average_bits, "size": size, "bit_operations": bit_operations}
    given = {name: budget for name, budget in wanted.items() if budget is not None}
    if len(given) != 1:
        raise ValueError(f"the weights need one budget of {', '.join(wanted)}; given: {', '.join(given) or 'none'}")
    for name, bits in (("act_bits", act_bits), ("sum_bits", sum_bits)):
        if bits is not None:
            _checks.bit_width(name, bits)
    ((budget_name, budget),) = given.items()
    chosen = allocate_weights(weights, budget_name, budget, widths).widths
    activations = {name: layer for name, layer in sensitivity.items() if layer.activations}
    if average_act_bits is None:
        acts: dict[str, int | None] = {n: _fixed(layer, act_bits, sum_bits) for n, layer in activations.items()}
    else:
        acts = dict(_on_average("average_act_bits", average_act_bits, activations, widths))
    acts |= {other: bits for name, bits in acts.items() for other in activations[name].joined}
    names = dict.fromkeys([*chosen, *(acts if average_act_bits is not None else ())])
    return {glob.escape(name): Override(chosen.get(name), acts.get(name, act_bits)) for name in names}


@typed
def bit_curve(
    sensitivity: Mapping[str, LayerSensitivity], widths: Sequence[int] | None = None, points: int = POINTS
) -> list[Allocation]:
    """The smallest sum of divergences over the size of the weights.

    Args:
        sensitivity: from :func:`hast_cuda.sensitivity`.
        widths: to choose from; None: all that were measured.
        points: averages that are asked for, from the smallest width to the largest; two that
            have one answer are one point.

    Raises:
        ValueError: no weights, a width that was not measured. ImportError: no scipy.

    Example:
        >>> import hast_cuda as hc
        >>> layer = hc.analysis.LayerSensitivity(weights={2: 0.5, 4: 0.1, 8: 0.0}, parameters=100)
        >>> [point.divergence for point in bit_curve({"stem": layer, "output": layer}, points=4)]
        [1.0, 0.2, 0.1, 0.0]
    """
    check_range("points", points, 2, 1000)
    weights = {name: layer for name, layer in sensitivity.items() if layer.weights}
    options = _options(weights, "weights", widths)
    low, high = min(options[0]), max(options[0])
    averages = [low + (high - low) * i / (points - 1) for i in range(points)]
    found = [allocate_weights(weights, "average_bits", average, widths) for average in averages]
    return list({tuple(point.widths.values()): point for point in found}.values())


def uniform(sensitivity: Layers) -> list[Allocation]:
    """The same with one width for all weights, for every width that was measured."""
    weights = {name: layer for name, layer in sensitivity.items() if layer.weights}
    return [_allocation(weights, dict.fromkeys(weights, width)) for width in _options(weights, "weights", None)[0]]


def allocate_weights(weights: Layers, name: str, budget: float, widths: Sequence[int] | None) -> Allocation:
    """Widths of layers that have weights, by the budget of this name; see :func:`allocate_bits`."""
    if name == "average_bits":
        return _allocation(weights, _on_average(name, budget, weights, widths))
    options = _options(weights, "weights", widths)
    if name == "size":
        costs = [{w: packed_size(layer.parameters, w) for w in options[0]} for layer in weights.values()]
    else:
        costs = [{w: layer.multiplications * w for w in options[0]} for layer in weights.values()]
    check_range(name, budget, 0, LARGEST)
    return _allocation(weights, _solved(name, weights, options, costs, math.floor(budget), budget, 1))


def _on_average(name: str, average: float, layers: Layers, widths: Sequence[int] | None) -> dict[str, int]:
    kind = "activations" if "act" in name else "weights"
    options = _options(layers, kind, widths)
    counts = [layer.values if kind == "activations" else layer.parameters for layer in layers.values()]
    check_range(name, average, 0, LARGEST)
    costs = [{w: count * w for w in options[0]} for count in counts]
    total = sum(counts)
    return _solved(name, layers, options, costs, math.floor(average * total), average, max(total, 1))


def _solved(
    name: str,
    layers: Layers,
    losses: Sequence[Mapping[int, float]],
    costs: Sequence[Mapping[int, int]],
    budget: int,
    given: float,
    unit: int,
) -> dict[str, int]:
    least = sum(min(options.values()) for options in costs)
    if least > budget:
        smallest = f"{least / unit:.12g}, with {min(costs[0])} bits everywhere"
        raise ValueError(f"{name} is {given:g}; the smallest possible is {smallest}")
    return dict(zip(layers, choose(losses, costs, budget), strict=True))


def _options(layers: Layers, kind: str, widths: Iterable[int] | None) -> list[dict[int, float]]:
    """Losses by the widths to choose from, layer by layer."""
    measured = [layer.weights if kind == "weights" else layer.activations for layer in layers.values()]
    if not measured:
        raise ValueError(f"sensitivity has no layer with {kind}: there is nothing to choose")
    common = set.intersection(*map(set, measured))
    wanted = sorted(common if widths is None else set(widths))
    if not wanted or not set(wanted) <= common:
        raise ValueError(f"widths is {wanted}; every layer was measured at {sorted(common)}: choose from these")
    return [{width: losses[width] for width in wanted} for losses in measured]


def _allocation(weights: Layers, widths: dict[str, int]) -> Allocation:
    layers = [(layer, widths[name]) for name, layer in weights.items()]
    parameters = sum(layer.parameters for layer, _ in layers)
    return Allocation(
        widths,
        sum(packed_size(layer.parameters, width) for layer, width in layers),
        sum(layer.parameters * width for layer, width in layers) / max(parameters, 1),
        sum(layer.weights[width] for layer, width in layers),
    )


def _fixed(layer: LayerSensitivity, act_bits: int | None, sum_bits: int) -> int | None:
    return act_bits if act_bits is None or not layer.sums else max(act_bits, sum_bits)
