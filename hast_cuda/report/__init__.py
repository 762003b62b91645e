"""What a run looks like to a person."""

from __future__ import annotations

from hast_cuda.report.figures import draw_curves, draw_images

__all__ = ["draw_curves", "draw_images"]
