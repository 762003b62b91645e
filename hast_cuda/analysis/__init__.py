"""Why a method works: sample difficulty, gradients of its losses, curvature, curves."""

from __future__ import annotations

from hast_cuda.analysis.curves import loss_curves
from hast_cuda.analysis.difficulty import (
    ErrorRates,
    Histogram,
    Judged,
    difficulty_histogram,
    error_by_difficulty,
    judge,
)
from hast_cuda.analysis.double_backward import NotTwiceDifferentiableError, require_double_backward
from hast_cuda.analysis.gradients import cosine, flat_gradient, gradient_cosines
from hast_cuda.analysis.hessian import Hessian
from hast_cuda.analysis.image_statistics import StatisticGap, reestimate_batch_norms, statistic_gaps
from hast_cuda.analysis.spectrum import Eigenvalue, Spectrum, hessian_spectrum
from hast_cuda.analysis.student_losses import StudentLosses, twice_differentiable

__all__ = [
    "Eigenvalue",
    "ErrorRates",
    "Hessian",
    "Histogram",
    "Judged",
    "NotTwiceDifferentiableError",
    "Spectrum",
    "StatisticGap",
    "StudentLosses",
    "cosine",
    "difficulty_histogram",
    "error_by_difficulty",
    "flat_gradient",
    "gradient_cosines",
    "hessian_spectrum",
    "judge",
    "loss_curves",
    "reestimate_batch_norms",
    "require_double_backward",
    "statistic_gaps",
    "twice_differentiable",
]
