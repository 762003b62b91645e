"""What a run logged, as curves over iterations (Figure 4)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from hast_cuda.checks.typed import typed

Curve = list[tuple[int, float]]
_NOT_CURVES = ("iteration", "batch", "learning_rate")


@typed
def loss_curves(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Curve]]:
    """Figures of ``metrics.jsonl`` by phase and name, each a list of (iteration, value).

    Synthesis is averaged over the batches that have reached an iteration. Of an iteration that a
    continued run did twice the last record counts.

    Args:
        records: of :meth:`hast_cuda.run.RunDirectory.read_log`.

    Raises:
        ValueError: a batch or an iteration that is no int.

    Returns:
        For example ``{"synthesis": {"match": ...}, "finetune": {"distillation": ...}, "test":
        {"top1": ...}}``; losses carry the weights of the objective.

    Example:
        >>> loss_curves([{"phase": "test", "iteration": 5, "top1": 60.0}])
        {'test': {'top1': [(5, 60.0)]}}
    """
    last: dict[tuple[str, str, int], dict[int, float]] = defaultdict(dict)
    for record in records:
        if "phase" not in record or "iteration" not in record:
            continue  # a note, not a figure
        batch, iteration = record.get("batch", 0), record["iteration"]
        if type(batch) is not int or type(iteration) is not int:
            raise ValueError(f"records has batch {batch!r} and iteration {iteration!r}; expected ints")
        for name, value in record.items():
            if name not in _NOT_CURVES and type(value) in (int, float):
                last[str(record["phase"]), name, iteration][batch] = float(value)
    curves: dict[str, dict[str, Curve]] = {}
    for (phase, name, iteration), values in sorted(last.items()):
        curve = curves.setdefault(phase, {}).setdefault(name, [])
        curve.append((iteration, sum(values.values()) / len(values)))
    return curves
