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
from hast_cuda.checks.values import check_choice, check_range
from hast_cuda.exports.packed_weight import packed_size
from hast_cuda.nn import Override

Layers = Mapping[str, LayerSensitivity]
BUDGETS = ("average_bits", "size", "bit_operations", "seconds")
POINTS = 25  # of a curve: every quarter of a bit from 2 to 8
_NANOSECONDS = 10**9


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
    """Sum of what the layers lose, each quantized alone."""
    bit_operations: int = 0
    """Multiplications of an image times bits of their weight."""
    seconds: float | None = None
    """Of the layers' steps in the engine, for one image on one thread; None: not measured."""


@typed
def allocate_bits(
    sensitivity: Mapping[str, LayerSensitivity],
    *,
    average_bits: float | None = None,
    size: int | None = None,
    bit_operations: int | None = None,
    seconds: float | None = None,
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
        seconds: the most that the layers' steps in the engine take for one image on one thread, of a
            sensitivity :func:`hast_cuda.analysis.with_engine_seconds`; what other steps take comes on top.
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
    wanted = {"average_bits": average_bits, "size": size, "bit_operations": bit_operations, "seconds": seconds}
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
        both = None if act_bits is None else max(act_bits, sum_bits)
        acts: dict[str, int | None] = {name: both if layer.sums else act_bits for name, layer in activations.items()}
    else:
        acts = dict(_on_average("average_act_bits", average_act_bits, activations, widths))
    acts |= {other: bits for name, bits in acts.items() for other in activations[name].joined}
    names = dict.fromkeys([*chosen, *(acts if average_act_bits is not None else ())])
    return {glob.escape(name): Override(chosen.get(name), acts.get(name, act_bits)) for name in names}


@typed
def bit_curve(
    sensitivity: Mapping[str, LayerSensitivity],
    widths: Sequence[int] | None = None,
    points: int = POINTS,
    cost: str = "average_bits",
) -> list[Allocation]:
    """The smallest sum of divergences over what it costs: a Pareto curve.

    Args:
        sensitivity: from :func:`hast_cuda.sensitivity`.
        widths: to choose from; None: all that were measured.
        points: budgets that are asked for, evenly from the least to the most that can be spent; two that
            have one answer are one point.
        cost: a budget of :func:`allocate_bits` for weights, by name.

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
    check_choice("cost", cost, BUDGETS)
    costs, unit = _costs(cost, weights, _options(weights, "weights", widths))
    low, high = (sum(end(each.values()) for each in costs) / unit for end in (min, max))
    budgets = [low + (high - low) * i / (points - 1) for i in range(points)]
    found = [allocate_weights(weights, cost, budget, widths) for budget in budgets]
    return list({tuple(point.widths.values()): point for point in found}.values())


def uniform(sensitivity: Layers) -> list[Allocation]:
    """The same with one width for all weights, for every width that was measured."""
    weights = {name: layer for name, layer in sensitivity.items() if layer.weights}
    return [_allocation(weights, dict.fromkeys(weights, width)) for width in _options(weights, "weights", None)[0]]


def allocate_weights(weights: Layers, name: str, budget: float, widths: Sequence[int] | None) -> Allocation:
    """Widths of layers that have weights, by the budget of this name; see :func:`allocate_bits`."""
    options = _options(weights, "weights", widths)
    costs, unit = _costs(name, weights, options)
    check_range(name, budget, 0, LARGEST)
    most = math.floor(budget * unit * (1 + 1e-12))  # what was divided by the unit comes back whole
    return _allocation(weights, _solved(name, weights, options, costs, most, budget, unit))


def _costs(name: str, layers: Layers, options: Sequence[Mapping[int, float]]) -> tuple[list[dict[int, int]], int]:
    """Whole costs by layer and width, and how many of them are one of the budget's unit."""

    def cost(layer: LayerSensitivity, width: int) -> int:
        if name == "size":
            return packed_size(layer.parameters, width)
        if name == "seconds":
            return round(layer.seconds[width] * _NANOSECONDS)
        return width * (layer.multiplications if name == "bit_operations" else layer.parameters)

    if name == "seconds" and (
        untimed := [n for n, layer in layers.items() if not set(options[0]) <= set(layer.seconds)]
    ):
        raise ValueError(
            f"the engine's time of layer {untimed[0]!r} at {sorted(options[0])} bits was not measured: give what "
            "hast_cuda.analysis.with_engine_seconds returns, or run hast-cuda analyze sensitivity --time"
        )
    total = sum(layer.parameters for layer in layers.values())
    units = {"average_bits": max(total, 1), "seconds": _NANOSECONDS}
    return [{w: cost(layer, w) for w in options[0]} for layer in layers.values()], units.get(name, 1)


def _on_average(name: str, average: float, layers: Layers, widths: Sequence[int] | None) -> dict[str, int]:
    """Widths of activations."""
    options = _options(layers, "activations", widths)
    counts = [layer.values for layer in layers.values()]
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
    unit: float,
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
        sum(layer.multiplications * width for layer, width in layers),
        sum(layer.seconds[w] for layer, w in layers) if all(w in layer.seconds for layer, w in layers) else None,
    )
