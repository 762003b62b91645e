"""The figures that are more than a table of runs, by name."""

from __future__ import annotations

from hast_cuda.reproduce.drawing import Measure
from hast_cuda.reproduce.figure2 import measure_figure2
from hast_cuda.reproduce.figure4 import measure_figure4
from hast_cuda.reproduce.figure6 import measure_figure6

FIGURES: dict[str, Measure] = {
    "figure2": measure_figure2,
    "figure4": measure_figure4,
    "figure6": measure_figure6,
}
