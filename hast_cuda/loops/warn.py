"""Warnings that name the line of the caller, however deep in the package they arise."""

from __future__ import annotations

import contextlib
import sys
import warnings
from pathlib import Path

# of decorators, too, which contextlib makes of contexts
INSIDE = (str(Path(__file__).parents[1]), contextlib.__file__)


def warn_caller(message: str, category: type[Warning]) -> None:
    """Warn at the innermost line that is not this package's."""
    frame, level = sys._getframe(1), 2
    while frame.f_code.co_filename.startswith(INSIDE) and frame.f_back is not None:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
