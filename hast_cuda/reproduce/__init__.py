"""The paper's tables: their rows, their figures, and runs of them."""

from __future__ import annotations

from hast_cuda.reproduce.budget import SMALL, apply_budget
from hast_cuda.reproduce.render import (
    Document,
    lines_of,
    order_note,
    to_csv,
    to_html,
    to_markdown,
)
from hast_cuda.reproduce.runner import Outcome, Setting, image_key, recipe_of, run_row
from hast_cuda.reproduce.tables import (
    NETWORKS,
    TABLES,
    Figure,
    Row,
    Table,
    paper_figures,
    paper_source,
    rows_of,
)

__all__ = [
    "NETWORKS",
    "SMALL",
    "TABLES",
    "Document",
    "Figure",
    "Outcome",
    "Row",
    "Setting",
    "Table",
    "apply_budget",
    "image_key",
    "lines_of",
    "order_note",
    "paper_figures",
    "paper_source",
    "recipe_of",
    "rows_of",
    "run_row",
    "to_csv",
    "to_html",
    "to_markdown",
]
