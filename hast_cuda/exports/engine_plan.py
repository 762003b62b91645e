"""A student as a plan of the engine: simple steps, fused with the same result, and made fit for its kernels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hast_cuda.exports.engine_affine import AFFINE_RULES
from hast_cuda.exports.engine_graph import GraphReader
from hast_cuda.exports.engine_steps import (
    ADD,
    AVERAGE_POOL,
    CONCATENATE,
    CONVERT,
    CONVOLUTION,
    GATHER,
    MAX_POOL,
    MULTIPLY,
    Activation,
    Plan,
    Shape,
    Step,
    Value,
    Weights,
    refusal,
)
from hast_cuda.exports.grid import Affine
from hast_cuda.exports.marked import MarkedModel

_LARGEST_SUM = 2**31 - 1


def plan(marked: MarkedModel, shape: Shape) -> Plan:
    """The steps of a marked student for images of ``shape``; ValueError names what the engine cannot run."""
    found = GraphReader(marked, shape).read()
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
        depthwise = 1 < step.groups == step.inputs[0].shape[0] == step.output.shape[0]  # its float weights read codes
        fits = _largest_sum(weights, grid) <= _LARGEST_SUM and (weights.bits is not None or depthwise)
        if (any(window.padding) and not grid.contains_zero) or not fits:
            read_floats(found, step)
    if found.output.grid is not None:
        made = Value(f"{found.output.name}.float", found.output.shape)
        found.steps.append(Step(CONVERT, made.name, [found.output], made))
        found.output = made


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


_ACTIVE = (CONVOLUTION, CONVERT, ADD, MULTIPLY)  # they have an activation behind them, and any grid
_GRIDDED = (AVERAGE_POOL, CONCATENATE)  # any grid, no activation
_PASSING = (MAX_POOL, GATHER)  # their output has the grid of their input


def fuse(plan: Plan) -> None:
    """Change ``plan`` until nothing more can be fused."""
    rules: tuple[Callable[[Plan], bool], ...] = (
        _drop_unused,
        _drop_converts,
        *AFFINE_RULES,
        _take_sum,
        _convert_earlier,
        _take_convert,
    )
    while _spread_grids(plan) | any(rule(plan) for rule in rules):
        pass


def _spread_grids(plan: Plan) -> bool:
    """Codes pass pools, gathers and joints as they are; zeros that have no code are floats."""
    changed = False
    for step in list(plan.steps):
        first = step.inputs[0].grid
        if step.op == GATHER and -1 in step.channels and first is not None and not first.contains_zero:
            read_floats(plan, step)
            first = None
        joint = step.op == CONCATENATE and all(value.grid == first for value in step.inputs)
        if step.output.grid is None and first is not None and (joint or step.op in _PASSING):
            step.output.grid, changed = first, True
    return changed


def read_floats(plan: Plan, step: Step) -> None:
    """Let ``step`` read its first input as float32."""
    source = step.inputs[0]
    made = Value(f"{source.name}.float", source.shape)
    plan.steps.insert(plan.steps.index(step), Step(CONVERT, made.name, [source], made))
    step.inputs[0] = made


def _drop_unused(plan: Plan) -> bool:
    uses = plan.uses()
    kept = [step for step in plan.steps if uses[step.output]]
    changed = len(kept) < len(plan.steps)
    plan.steps = kept
    return changed


def _drop_converts(plan: Plan) -> bool:
    """Those that do nothing, or what another one has done."""
    done: dict[tuple[object, ...], Value] = {}
    for step in plan.steps:
        if step.op != CONVERT:
            continue
        source, output = step.inputs[0], step.output
        if step.activation is None and output.grid in (None, source.grid) and (output.grid or not source.grid):
            return _replace(plan, step, source)
        made = done.setdefault((source, step.activation, output.grid), output)
        if made is not output:
            return _replace(plan, step, made)
    return False


def _replace(plan: Plan, step: Step, value: Value) -> bool:
    """``value`` is what ``step`` makes."""
    plan.steps.remove(step)
    for other in plan.steps:
        other.read_instead(step.output, value)
    plan.output = value if plan.output is step.output else plan.output
    return True


def _take_sum(plan: Plan) -> bool:
    """A sum goes into the convolution that makes one of its operands, the later if both can."""
    makers = plan.makers()
    for step in plan.steps:
        if step.op != ADD or step.inputs[0].shape != step.inputs[1].shape:
            continue
        found = [(makers.get(value), other) for value, other in zip(step.inputs, step.inputs[::-1], strict=True)]
        fitting = [
            (plan.steps.index(maker), maker, other)
            for maker, other in found
            if maker is not None and maker.op == CONVOLUTION and not maker.activation and not maker.residual
        ]
        if not fitting:
            continue
        _, maker, other = max(fitting, key=lambda fit: fit[0])
        plan.steps.remove(maker)
        maker.residual, maker.output, maker.activation = other, step.output, step.activation
        plan.steps[plan.steps.index(step)] = maker  # when its residual is there
        return True
    return False


def _take_convert(plan: Plan) -> bool:
    """An activation or quantizer goes into the step before it."""
    makers = plan.makers()
    for step in plan.steps:
        before = makers.get(step.inputs[0]) if step.op == CONVERT else None
        if before is None or not _absorbs(before, step.activation):
            continue
        before.activation, before.output = _composed(before.activation, step.activation), step.output
        plan.steps.remove(step)
        return True
    return False


def _absorbs(before: Step, activation: Activation | None) -> bool:
    """``before`` can have a quantizer with ``activation`` in front of it behind its own."""
    if before.op in _GRIDDED:
        return activation is None
    clips = {a.kind for a in (before.activation, activation) if a is not None} == {"clip"}
    return before.op in _ACTIVE and (before.activation is None or activation is None or clips)


def _composed(first: Activation | None, second: Activation | None) -> Activation | None:
    """Both as one: if there are two, they are clips."""
    if first is None or second is None:
        return first or second
    low, high = _end(second.a, -np.inf), _end(second.b, np.inf)
    a, b = (float(np.clip(end, low, high)) for end in (_end(first.a, -np.inf), _end(first.b, np.inf)))
    return Activation("clip", None if np.isinf(a) else a, None if np.isinf(b) else b)


def _end(end: float | None, none: float) -> float:
    return none if end is None else end


def _convert_earlier(plan: Plan) -> bool:
    """A quantizer behind a maximum pool, gather or joint goes before it, where that saves a step.

    A function of single numbers commutes with moving them, and one that never falls with a maximum.
    """
    makers = plan.makers()
    for step in plan.steps:
        mover = makers.get(step.inputs[0]) if step.op == CONVERT else None
        if mover is None or mover.op not in (*_PASSING, CONCATENATE) or mover.activation:
            continue
        falls = step.activation is not None and not step.activation.monotone
        if (mover.op == MAX_POOL and falls) or (mover.op == GATHER and -1 in mover.channels):
            continue
        if not all(_takes(makers.get(value), step.activation) for value in mover.inputs):
            continue
        place = plan.steps.index(mover)
        plan.steps.remove(step)
        for index, value in enumerate(mover.inputs):
            made = Value(value.name, value.shape, step.output.grid)
            plan.steps.insert(place, Step(CONVERT, step.name, [value], made, step.activation))
            mover.inputs[index] = made
            place += 1
        mover.output = step.output
        return True
    return False


def _takes(maker: Step | None, activation: Activation | None) -> bool:
    """``maker`` can have ``activation`` behind it, or hand it on to the step before."""
    return maker is not None and (maker.op in _PASSING or _absorbs(maker, activation))
