"""One choice for each item, of the smallest total loss within a budget: an exact integer program."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_FINEST = 1e6  # the largest loss for the solver, which stops at a gap of 1e-6


def choose(losses: Sequence[Mapping[int, float]], costs: Sequence[Mapping[int, int]], budget: int) -> list[int]:
    """The choice of every item (the multiple-choice knapsack problem), by loss and whole cost of each choice.

    ``budget`` is at least the sum of the smallest costs. ImportError: no scipy. RuntimeError: the solver gives up.
    """
    if not losses:
        return []
    optimize, sparse = _scipy()
    keys = [(item, choice) for item, options in enumerate(losses) for choice in options]
    unit = math.gcd(*(cost for options in costs for cost in options.values())) or 1
    cost, budget = [costs[item][choice] // unit for item, choice in keys], budget // unit
    loss = np.array([losses[item][choice] for item, choice in keys])
    loss = loss / (loss.max() or 1.0) * _FINEST  # in this order: the largest may be the smallest float there is
    one_each = sparse.csr_array(
        (np.ones(len(keys)), ([item for item, _ in keys], range(len(keys)))), (len(losses), len(keys))
    )
    rules = [
        optimize.LinearConstraint(one_each, 1, 1),
        optimize.LinearConstraint(np.array(cost, dtype=np.float64)[None], -np.inf, budget),
    ]
    options = {"mip_rel_gap": 0.0, "presolve": False}
    while True:
        found = optimize.milp(loss, integrality=np.ones(len(keys)), bounds=(0, 1), constraints=rules, options=options)
        if found.x is None:
            raise RuntimeError(f"scipy.optimize.milp found no choice within the budget: {found.message}")
        taken = [index for index, value in enumerate(found.x) if value > 0.5]
        if sum(cost[index] for index in taken) <= budget:
            return [keys[index][1] for index in taken]
        # Over the budget by less than the solver can see: every choice but this one.
        this = np.zeros(len(keys))
        this[taken] = 1
        rules.append(optimize.LinearConstraint(this[None], -np.inf, len(taken) - 1))


def _scipy() -> tuple[Any, Any]:
    try:
        from scipy import optimize, sparse  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise ImportError("choosing bits needs scipy: pip install 'hast_cuda[allocation]'") from error
    return optimize, sparse
