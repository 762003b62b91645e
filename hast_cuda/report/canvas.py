"""Matplotlib without a screen, and figures that appear whole or not at all."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from hast_cuda.checks.values import as_path
from hast_cuda.files.whole import replace_file

# Of text and lines, and of what is behind them; a page puts colours of its own in their place.
INK, PAPER = "#1c2125", "#fdfdfe"
# Far enough from black and from white to be seen on either.
COLORS = ("#3b7dd8", "#dd7423", "#2f9e66", "#c0519c", "#8a6fd1", "#a98f1c", "#5f7d8c", "#c9453f")
_THEME: dict[str, Any] = {
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "grid.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "hast_cuda",
}


def pyplot() -> Any:
    """matplotlib.pyplot on the Agg backend; ImportError says how to get it."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - an optional dependency

        mpl.use("Agg")
        import matplotlib.pyplot as plt  # noqa: PLC0415
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'hast_cuda[plots]'") from error
    return plt


@contextmanager
def themed() -> Iterator[None]:
    """Figures drawn inside have the colours and the text of a report page."""
    plt = pyplot()
    with plt.rc_context({**_THEME, "axes.prop_cycle": plt.cycler(color=COLORS)}):
        yield


@contextmanager
def drawing(
    path: Path, rows: int = 1, columns: int = 1, size: tuple[float, float] = (6, 4), **given: Any
) -> Iterator[Any]:
    """Axes [rows, columns], written to ``path`` as SVG or PNG, whichever it ends with.

    Where drawing fails nothing is written; pyplot keeps no figure open either way.
    """
    path = as_path("path", path)
    kind = "svg" if path.suffix == ".svg" else "png"
    options: dict[str, Any] = {"metadata": {"Date": None}} if kind == "svg" else {"dpi": 110, "bbox_inches": "tight"}
    plt = pyplot()
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **given)
    try:
        yield axes
        with warnings.catch_warnings(), replace_file(path) as temporary:
            # The text of an SVG is drawn by the reader's fonts.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure.savefig(temporary, format=kind, **options)
    finally:
        plt.close(figure)


def plain_log_labels(axis: Any) -> None:
    """0.05 instead of 5 times a power of ten; shorter, and drawn much faster."""
    from matplotlib.ticker import LogFormatter  # noqa: PLC0415 - an optional dependency

    class Plain(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    for which in (axis.set_major_formatter, axis.set_minor_formatter):
        which(Plain(minor_thresholds=(2, 0.5)))


def label(text: str) -> str:
    """``text`` as a legend shows it: no formula between dollars, never left out, valid in XML."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    shown = printable.replace("$", r"\$")
    return f"\u200b{shown}" if shown.startswith("_") else shown


def require_numbers(name: str, values: Iterable[float]) -> None:
    """ValueError unless all are finite: an axis has no place for others."""
    for value in values:
        if not math.isfinite(value):
            raise ValueError(f"{name} has {value}; only finite numbers can be drawn")


def require(name: str, values: Any) -> None:
    """ValueError if there is nothing to draw."""
    if not values:
        raise ValueError(f"{name} is empty: there is nothing to draw")


def colours(pixels: Tensor) -> Tensor:
    """[3, H, W] of an image [C, H, W]: of more than three channels the first three, of two the first."""
    return pixels[:3] if len(pixels) >= 3 else pixels[:1].expand(3, -1, -1)
