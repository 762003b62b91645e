"""Why a method works: sample difficulty, gradients of its losses, curvature, curves; which layer needs which bits."""

from __future__ import annotations

from hast_cuda.analysis.allocation import Allocation as Allocation
from hast_cuda.analysis.allocation import allocate_bits, bit_curve
from hast_cuda.analysis.curves import loss_curves
from hast_cuda.analysis.difficulty import ErrorRates as ErrorRates
from hast_cuda.analysis.difficulty import Histogram as Histogram
from hast_cuda.analysis.difficulty import Judged as Judged
from hast_cuda.analysis.difficulty import difficulty_histogram, error_by_difficulty, judge
from hast_cuda.analysis.engine_times import with_engine_seconds
from hast_cuda.analysis.gradients import cosine as cosine
from hast_cuda.analysis.gradients import flat_gradient as flat_gradient
from hast_cuda.analysis.gradients import gradient_cosines
from hast_cuda.analysis.hessian import Hessian
from hast_cuda.analysis.hessian import NotTwiceDifferentiableError as NotTwiceDifferentiableError
from hast_cuda.analysis.hessian import require_double_backward as require_double_backward
from hast_cuda.analysis.image_statistics import StatisticGap as StatisticGap
from hast_cuda.analysis.image_statistics import reestimate_batch_norms, statistic_gaps
from hast_cuda.analysis.kept_layers import KeptLayer as KeptLayer
from hast_cuda.analysis.kept_layers import layers_to_keep
from hast_cuda.analysis.sensitivity import LayerSensitivity as LayerSensitivity
from hast_cuda.analysis.sensitivity import read_sensitivity, sensitivity
from hast_cuda.analysis.spectrum import Eigenvalue as Eigenvalue
from hast_cuda.analysis.spectrum import Spectrum as Spectrum
from hast_cuda.analysis.spectrum import hessian_spectrum
from hast_cuda.analysis.student_losses import StudentLosses
from hast_cuda.analysis.student_losses import twice_differentiable as twice_differentiable
from hast_cuda.analysis.within_drop import allocate_within_drop

__all__ = [
    "Hessian",
    "StudentLosses",
    "allocate_bits",
    "allocate_within_drop",
    "bit_curve",
    "difficulty_histogram",
    "error_by_difficulty",
    "gradient_cosines",
    "hessian_spectrum",
    "judge",
    "layers_to_keep",
    "loss_curves",
    "read_sensitivity",
    "reestimate_batch_norms",
    "sensitivity",
    "statistic_gaps",
    "with_engine_seconds",
]
