"""How far images' statistics are from a network's, layer by layer (Eq. 3)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hast_cuda.analysis import StatisticGap
from hast_cuda.checks.typed import typed
from hast_cuda.report.canvas import (
    closing,
    plain_log_labels,
    pyplot,
    require,
    require_numbers,
    save,
)


@closing
@typed
def draw_statistics(gaps: Mapping[str, StatisticGap], path: Path) -> None:
    """Gaps of means and of variances by layer, on a log scale, two curves; 0 is a hole in one.

    Args:
        gaps: from :func:`hast_cuda.analysis.statistic_gaps`.
        path: of the PNG file.

    Raises:
        ValueError: no layers, or gaps that are no numbers. ImportError: no matplotlib.
    """
    require("gaps", gaps)
    curves = {
        "means, in standard deviations": [gap.mean for gap in gaps.values()],
        "variances, relative": [gap.variance for gap in gaps.values()],
    }
    for values in curves.values():
        require_numbers("gaps", values)
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, values in curves.items():
        axis.plot(range(len(values)), [v or float("nan") for v in values], marker="o", label=name)
    axis.set_yscale("log")
    plain_log_labels(axis.yaxis)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel("BatchNorm layer")
    axis.set_ylabel("mean gap over channels")
    axis.grid(alpha=0.3, which="both")
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=9)
    save(figure, path)
