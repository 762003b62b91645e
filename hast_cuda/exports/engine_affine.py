"""Factors and shifts per channel: into the convolution before them, or into a gate's own function.

``x * relu6(x + 3) / 6``, as many networks write it, becomes one hard swish in four of these rules.
"""

from __future__ import annotations

from hast_cuda.exports.engine_steps import CONVERT, CONVOLUTION, MULTIPLY, Activation, Plan, Step

_CLOSE = 1e-6  # a sixth, in float32


def _take_affine(plan: Plan) -> bool:
    """``factor * y + shift`` behind a convolution goes into its scale and bias.

    Through a clip too, whose ends follow, if it is one positive factor for all channels.
    """
    makers = plan.makers()
    for step in plan.steps:
        before = makers.get(step.inputs[0]) if step.residual is None else None
        if before is None or before.op != CONVOLUTION or before.residual or not step.affine:
            continue
        if before.activation is not None:
            clip = _scaled(before.activation, step)
            if clip is None or step.activation is not None:
                continue
            before.activation = clip
        else:
            before.activation = step.activation
        assert step.weights is not None
        assert before.weights is not None
        before.weights, before.output = before.weights.then(step.weights.scale, step.weights.bias), step.output
        plan.steps.remove(step)
        return True
    return False


def _as_hard_sigmoid(plan: Plan) -> bool:
    """``clip(a * x + b, 0, 1)``, one a and b for all channels, is no convolution."""
    for step in plan.steps:
        if step.op != CONVOLUTION or step.activation is None or step.residual is not None:
            continue
        uniform = _uniform(step)
        given = step.activation
        if uniform is None or given.kind != "clip" or given.a is None or given.b is None:
            continue
        if abs(given.a) >= _CLOSE or abs(given.b - 1) >= _CLOSE:
            continue
        step.op, step.activation = CONVERT, Activation("hard_sigmoid", *uniform)
        step.weights, step.window, step.groups = None, None, 1
        return True
    return False


def _take_factor(plan: Plan) -> bool:
    """``f * (x * gate)`` is ``x * (f * gate)``, where the gate is a clipped convolution."""
    makers = plan.makers()
    for step in plan.steps:
        product = makers.get(step.inputs[0]) if step.residual is None else None
        uniform = None if product is None or product.op != MULTIPLY or product.activation else _uniform(step)
        if product is None or uniform is None or uniform[1] != 0:
            continue
        gate = makers.get(product.inputs[1]) or makers.get(product.inputs[0])
        clip = None if gate is None or gate.activation is None else _scaled(gate.activation, step)
        if gate is None or clip is None or gate.op != CONVOLUTION or gate.residual is not None:
            continue
        assert step.weights is not None
        assert gate.weights is not None
        factor = step.weights.scale[0] + 0 * gate.weights.scale
        gate.weights, gate.activation = gate.weights.then(factor, 0 * factor), clip
        product.output, product.activation = step.output, step.activation
        plan.steps.remove(step)
        return True
    return False


def _as_hard_swish(plan: Plan) -> bool:
    """``x * clip(x / 6 + 1/2, 0, 1)`` is one function."""
    makers = plan.makers()
    for step in plan.steps:
        if step.op != MULTIPLY or step.activation is not None:
            continue
        for x, gated in (step.inputs, step.inputs[::-1]):
            gate = makers.get(gated)
            given = None if gate is None else gate.activation
            if gate is None or given is None or given.kind != "hard_sigmoid" or gate.op != CONVERT:
                continue
            sixth = abs((given.a or 0.0) - 1 / 6) < _CLOSE and abs((given.b or 0.0) - 0.5) < _CLOSE
            if gate.inputs[0] is x and sixth:
                plan.steps.remove(gate)
                step.op, step.inputs, step.activation = CONVERT, [x], Activation("hard_swish")
                return True
    return False


AFFINE_RULES = (_take_affine, _take_factor, _as_hard_sigmoid, _as_hard_swish)


def _uniform(step: Step) -> tuple[float, float] | None:
    """Factor (above 0) and shift of an affine step that has one of each for all channels."""
    weights = step.weights
    if weights is None or not step.affine or weights.scale[0] <= 0:
        return None
    same = bool((weights.scale == weights.scale[0]).all() and (weights.bias == weights.bias[0]).all())
    return (float(weights.scale[0]), float(weights.bias[0])) if same else None


def _scaled(clip: Activation, step: Step) -> Activation | None:
    """The clip that does behind ``step`` what ``clip`` does before it; None if there is none."""
    uniform = _uniform(step)
    if clip.kind != "clip" or uniform is None:
        return None
    factor, shift = uniform
    a, b = (None if end is None else factor * end + shift for end in (clip.a, clip.b))
    return Activation("clip", a, b)
