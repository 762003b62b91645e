"""Who errs on hard images (Figure 2b)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hast_cuda.analysis import ErrorRates
from hast_cuda.checks.typed import typed
from hast_cuda.report.canvas import closing, pyplot, require, save


@closing
@typed
def draw_error_by_difficulty(rates: Mapping[str, ErrorRates], path: Path) -> None:
    """Error rate per difficulty bin, one curve per network, as PNG.

    The bars behind are the numbers of images of the first network's bins.

    Args:
        rates: by the name of their network, usually on the same test images; bins without images
            are gaps.
        path: of the PNG file.

    Raises:
        ValueError: no rates. ImportError: no matplotlib.
    """
    require("rates", rates)
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    first = next(iter(rates.values()))
    behind = axis.twinx()
    behind.stairs(first.counts, first.edges, fill=True, alpha=0.15, color="gray")
    behind.set_yscale("symlog")
    behind.set_ylabel("images (bars)")
    for name, rate in rates.items():
        centres = [(a + b) / 2 for a, b in zip(rate.edges, rate.edges[1:], strict=False)]
        heights = [float("nan") if r is None else r for r in rate.rates]
        axis.plot(centres, heights, marker="o", label=name)
    axis.set_zorder(behind.get_zorder() + 1)
    axis.patch.set_visible(False)
    axis.set_xlim(0, 1)
    axis.set_ylim(-3, 103)
    axis.set_xlabel("difficulty under the full-precision network, 1 - p(label)")
    axis.set_ylabel("error rate, %")
    axis.grid(alpha=0.3)
    axis.legend()
    save(figure, path)
