"""What a run, or several, look like to a person: pictures and pages."""

from __future__ import annotations

from hast_cuda.report.analysis_plots import (
    draw_cosines,
    draw_difficulty,
    draw_error_by_difficulty,
    draw_gaps,
    draw_inception,
    draw_sensitivity,
    draw_spectrum,
    draw_statistics,
    inception_loss,
)
from hast_cuda.report.bit_plots import draw_bit_curve, draw_layers
from hast_cuda.report.plots import draw_accuracies, draw_images, draw_learning_rate, draw_loss_curves
from hast_cuda.report.results import ACCURACIES
from hast_cuda.report.write import Context, write_comparison, write_report

__all__ = [
    "ACCURACIES",
    "Context",
    "draw_accuracies",
    "draw_bit_curve",
    "draw_cosines",
    "draw_difficulty",
    "draw_error_by_difficulty",
    "draw_gaps",
    "draw_images",
    "draw_inception",
    "draw_layers",
    "draw_learning_rate",
    "draw_loss_curves",
    "draw_sensitivity",
    "draw_spectrum",
    "draw_statistics",
    "inception_loss",
    "write_comparison",
    "write_report",
]
