"""The paper's pictures: those that are measured, and those that are drawn from a table of runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hast_cuda.reproduce.drawing import Measure
from hast_cuda.reproduce.figure2 import measure_figure2
from hast_cuda.reproduce.figure4 import measure_figure4
from hast_cuda.reproduce.figure5 import draw_figure5
from hast_cuda.reproduce.figure6 import measure_figure6
from hast_cuda.reproduce.runner import Outcome

FIGURES: dict[str, Measure] = {"figure2": measure_figure2, "figure4": measure_figure4, "figure6": measure_figure6}
PICTURES: dict[str, Callable[[Sequence[Outcome], Path], None]] = {"figure5": draw_figure5}
