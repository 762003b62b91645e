"""Figure 5: the table of the sweeps as curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hast_cuda import report
from hast_cuda.reproduce.runner import Outcome


def draw_figure5(outcomes: Sequence[Outcome], path: Path) -> None:
    """Top-1 of the quantized network against the value that each row sweeps, the first that it changes.

    Args:
        outcomes: of rows of figure5; those without results are left out.
        path: of the PNG file.

    Raises:
        ValueError: no outcome, or a row that changes nothing. ImportError: no matplotlib.
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
