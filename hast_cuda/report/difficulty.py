"""How many images are how hard (Figure 2c)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hast_cuda.analysis import Histogram
from hast_cuda.checks.typed import typed
from hast_cuda.report.canvas import closing, label, plain_log_labels, pyplot, require, save


@closing
@typed
def draw_difficulty(
    histograms: Mapping[str, Histogram], path: Path, network: str = "the full-precision network"
) -> None:
    """Fraction of images per difficulty bin, on a log scale, one curve per set of images.

    Args:
        histograms: by the name of their images; empty bins are gaps.
        path: of the SVG or PNG file.
        network: whose probabilities make the difficulty, for the axis.

    Raises:
        ValueError: no histogram. ImportError: no matplotlib.
    """
    require("histograms", histograms)
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, histogram in histograms.items():
        centres = [(a + b) / 2 for a, b in zip(histogram.edges, histogram.edges[1:], strict=False)]
        heights = [f or float("nan") for f in histogram.fractions]  # log(0) has no place
        axis.plot(centres, heights, marker="o", label=f"{label(name)} ({sum(histogram.counts)})")
    axis.set_yscale("log")
    plain_log_labels(axis.yaxis)
    axis.set_xlim(0, 1)
    axis.set_xlabel(f"difficulty under {network}, 1 - p(label)")
    axis.set_ylabel("fraction of images")
    axis.grid(alpha=0.3, which="both")
    axis.legend(title="images (number)")
    save(figure, path)
