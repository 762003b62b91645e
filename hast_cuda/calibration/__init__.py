"""Images made from a network as files with which other programs calibrate their quantizers."""

from __future__ import annotations

from hast_cuda.calibration.make import CalibrationSet, calibration_set
from hast_cuda.calibration.pixels import to_normalized, to_pixels

__all__ = ["CalibrationSet", "calibration_set", "to_normalized", "to_pixels"]
