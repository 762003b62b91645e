"""Matplotlib without a screen, and figures that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hast_cuda.files import replace_file


def pyplot() -> Any:
    """matplotlib.pyplot on the Agg backend; ImportError says how to get it."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - an optional dependency

        mpl.use("Agg")
        import matplotlib.pyplot as plt  # noqa: PLC0415
    except ImportError as error:
        message = "pictures need matplotlib: pip install 'hast_cuda[demo]'"
        raise ImportError(message) from error
    return plt


def save(figure: Any, path: Path) -> None:
    """Write ``figure`` as PNG and close it."""
    with replace_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight")
    pyplot().close(figure)


def require(name: str, values: Any) -> None:
    """ValueError if there is nothing to draw."""
    if not values:
        message = f"{name} is empty: there is nothing to draw"
        raise ValueError(message)
