"""What a run, or several, look like to a person: pictures and pages."""

from __future__ import annotations

from hast_cuda.report.accuracy import draw_accuracies
from hast_cuda.report.cosines import draw_cosines
from hast_cuda.report.difficulty import draw_difficulty
from hast_cuda.report.error_by_difficulty import draw_error_by_difficulty
from hast_cuda.report.figures import draw_curves, draw_images
from hast_cuda.report.gaps import draw_gaps
from hast_cuda.report.inception import draw_inception, inception_loss
from hast_cuda.report.learning_rate import draw_learning_rate
from hast_cuda.report.loss_curves import draw_loss_curves
from hast_cuda.report.results import ACCURACIES
from hast_cuda.report.sensitivity import draw_sensitivity
from hast_cuda.report.spectrum import draw_spectrum
from hast_cuda.report.statistics import draw_statistics
from hast_cuda.report.write import Context, write_comparison, write_report

__all__ = [
    "ACCURACIES",
    "Context",
    "draw_accuracies",
    "draw_cosines",
    "draw_curves",
    "draw_difficulty",
    "draw_error_by_difficulty",
    "draw_gaps",
    "draw_images",
    "draw_inception",
    "draw_learning_rate",
    "draw_loss_curves",
    "draw_sensitivity",
    "draw_spectrum",
    "draw_statistics",
    "inception_loss",
    "write_comparison",
    "write_report",
]
