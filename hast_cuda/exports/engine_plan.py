"""A student as a plan of the engine: simple steps, fused, and made fit for its kernels."""

from __future__ import annotations

import numpy as np

from hast_cuda.exports.engine_fuse import fuse, read_floats
from hast_cuda.exports.engine_graph import simple_steps
from hast_cuda.exports.engine_steps import CONVERT, Plan, Shape, Step, Value, Weights, refusal
from hast_cuda.exports.grid import Affine
from hast_cuda.exports.marked import MarkedModel

_LARGEST_SUM = 2**31 - 1


def plan(marked: MarkedModel, shape: Shape) -> Plan:
    """The steps of a marked student for images of ``shape``.

    Raises:
        ValueError: naming a layer or a node of the graph that the engine cannot run.
    """
    found = simple_steps(marked, shape)
    fuse(found)
    _read_floats(found)
    for step in found.steps:
        if step.weights is not None:
            step.weights = step.weights.positive()
            numbers = (step.weights.scale, step.weights.bias, step.weights.values)
            with np.errstate(over="ignore"):
                finite = all(bool(np.isfinite(n.astype(np.float32)).all()) for n in numbers)
            if not finite:
                raise refusal("layer", step.name, step.op, "its scale, bias or weight is not finite in float32")
    _rename(found)
    return found


def _read_floats(found: Plan) -> None:
    """Conversions: where a padded input has no code for zero, sums need more than 32 bits, or channels
    are summed with float weights; of the output.
    """
    for step in list(found.steps):
        grid, weights, window = step.inputs[0].grid, step.weights, step.window
        if grid is None or weights is None or window is None:
            continue
        fits = _largest_sum(weights, grid) <= _LARGEST_SUM and (weights.bits is not None or _depthwise(step))
        if (any(window.padding) and not grid.contains_zero) or not fits:
            read_floats(found, step)
    if found.output.grid is not None:
        made = Value(f"{found.output.name}.float", found.output.shape)
        found.steps.append(Step(CONVERT, made.name, [found.output], made))
        found.output = made


def _depthwise(step: Step) -> bool:
    """Every channel by itself: its float weights read codes."""
    return 1 < step.groups == step.inputs[0].shape[0] == step.output.shape[0]


def _largest_sum(weights: Weights, grid: Affine) -> int:
    """Of integer products of codes, in any channel."""
    if weights.zero_point is None:
        return 0
    centred = weights.values.astype(np.int64) - weights.zero_point.reshape(-1, 1, 1, 1)
    return grid.largest * int(np.abs(centred).reshape(len(centred), -1).sum(1).max(initial=0))


def _rename(found: Plan) -> None:
    """Names that occur once: of values, and of steps."""
    for things in (found.values(), found.steps):
        taken: set[str] = set()
        for thing in things:
            name, number = thing.name, 1
            while thing.name in taken:
                number += 1
                thing.name = f"{name}_{number}"
            taken.add(thing.name)
