"""The paper's pictures: those that are measured, and those that are drawn from a table of runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hast_cuda import report
from hast_cuda.reproduce.figure2 import measure_figure2
from hast_cuda.reproduce.figure4 import measure_figure4
from hast_cuda.reproduce.figure6 import measure_figure6
from hast_cuda.reproduce.runner import Measure, Outcome


def draw_figure5(outcomes: Sequence[Outcome], path: Path) -> None:
    """Top-1 of the quantized network against the value that each row sweeps, the first that it changes.

    Rows without results are left out; ValueError: a row that changes nothing, or no outcome.
    """
    sweeps: dict[str, dict[float, list[float]]] = {}
    for outcome in outcomes:
        if not outcome.row.changes:
            raise ValueError(f"row {outcome.row.name} changes no value")
        name, value = next(iter(outcome.row.changes.items()))
        if outcome.results:
            sweep = sweeps.setdefault(name.partition(".")[2], {})
            sweep[float(value)] = [result["quantized"] for result in outcome.results]
    report.draw_sensitivity(sweeps, path)


FIGURES: dict[str, Measure] = {"figure2": measure_figure2, "figure4": measure_figure4, "figure6": measure_figure6}
PICTURES: dict[str, Callable[[Sequence[Outcome], Path], None]] = {"figure5": draw_figure5}
