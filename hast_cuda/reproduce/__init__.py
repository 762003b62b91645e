"""The paper's tables and figures: their rows, their values, and runs of them."""

from __future__ import annotations

from hast_cuda.reproduce.figure2 import measure_figure2
from hast_cuda.reproduce.figure4 import measure_figure4
from hast_cuda.reproduce.figure6 import measure_figure6
from hast_cuda.reproduce.figures import FIGURES, draw_figure5
from hast_cuda.reproduce.lines import lines_of, order_note
from hast_cuda.reproduce.runner import Drawing, Outcome, Setting, image_key, recipe_of, run_row
from hast_cuda.reproduce.tables import NETWORKS, TABLES, Published, Row, Table, paper_source, published, rows_of
from hast_cuda.reproduce.written import write_figure, write_table

__all__ = [
    "FIGURES",
    "NETWORKS",
    "TABLES",
    "Drawing",
    "Outcome",
    "Published",
    "Row",
    "Setting",
    "Table",
    "draw_figure5",
    "image_key",
    "lines_of",
    "measure_figure2",
    "measure_figure4",
    "measure_figure6",
    "order_note",
    "paper_source",
    "published",
    "recipe_of",
    "rows_of",
    "run_row",
    "write_figure",
    "write_table",
]
