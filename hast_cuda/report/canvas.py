"""Matplotlib without a screen, and figures that appear whole or not at all."""

from __future__ import annotations

import functools
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from hast_cuda.checks.values import as_path
from hast_cuda.files.whole import replace_file

P = ParamSpec("P")
R = TypeVar("R")
# Of text and lines, and of what is behind them; a page puts colours of its own in their place.
INK, PAPER = "#1c2125", "#fdfdfe"
# Far enough from black and from white to be seen on either.
COLORS = ("#3b7dd8", "#dd7423", "#2f9e66", "#c0519c", "#8a6fd1", "#a98f1c", "#5f7d8c", "#c9453f")
_THEME: dict[str, Any] = {
    "figure.facecolor": PAPER, "axes.facecolor": PAPER, "savefig.facecolor": PAPER,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "grid.color": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False, "svg.fonttype": "none", "svg.hashsalt": "hast_cuda",
}  # fmt: skip


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


@contextmanager
def themed() -> Iterator[None]:
    """Figures drawn inside have the colours and the text of a report page."""
    plt = pyplot()
    with plt.rc_context({**_THEME, "axes.prop_cycle": plt.cycler(color=COLORS)}):
        yield


def closing(draw: Callable[P, R]) -> Callable[P, R]:
    """``draw``, which then leaves no figure open where it fails: pyplot keeps them all."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
        before = _open_figures()
        try:
            return draw(*args, **kwargs)
        finally:
            for number in _open_figures() - before:
                pyplot().close(number)

    return drawn


def _open_figures() -> set[int]:
    loaded: Any = sys.modules.get("matplotlib.pyplot")
    return set() if loaded is None else set(loaded.get_fignums())


def save(figure: Any, path: Path) -> None:
    """Write ``figure`` as SVG or PNG, whichever ``path`` ends with, and close it."""
    path = as_path("path", path)
    kind = "svg" if path.suffix == ".svg" else "png"
    given: dict[str, Any] = (
        {"metadata": {"Date": None}} if kind == "svg" else {"dpi": 110, "bbox_inches": "tight"}
    )
    try:
        with warnings.catch_warnings(), replace_file(path) as temporary:
            # The text of an SVG is drawn by the reader's fonts.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure.savefig(temporary, format=kind, **given)
    finally:
        pyplot().close(figure)


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
            message = f"{name} has {value}; only finite numbers can be drawn"
            raise ValueError(message)


def require(name: str, values: Any) -> None:
    """ValueError if there is nothing to draw."""
    if not values:
        message = f"{name} is empty: there is nothing to draw"
        raise ValueError(message)
