"""What quantization cost, and what the run won back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hast_cuda.checks.typed import typed
from hast_cuda.report.canvas import closing, label, pyplot, require, require_numbers, save


@closing
@typed
def draw_accuracies(accuracies: Mapping[str, float], path: Path) -> None:
    """Top-1 accuracy in percent as horizontal bars from 0 to 100, the first at the top.

    Args:
        accuracies: by what they belong to.
        path: of the SVG or PNG file.

    Raises:
        ValueError: no accuracies. ImportError: no matplotlib.
    """
    require("accuracies", accuracies)
    require_numbers("accuracies", accuracies.values())
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(5, 0.7 + 0.36 * len(accuracies)), layout="constrained")
    colors = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    names = [label(name) for name in accuracies]
    places = range(len(names))
    bars = axis.barh(places, list(accuracies.values()), color=colors[0], height=0.7)
    bars[0].set_color(colors[1 % len(colors)])  # what the others are measured against
    axis.bar_label(bars, fmt="%.2f", padding=3)
    axis.set_yticks(places, names)
    axis.tick_params(axis="y", length=0)
    axis.invert_yaxis()
    axis.set_xlim(0, 115)
    axis.set_xticks(range(0, 101, 20))
    axis.set_xlabel("top-1 accuracy, %")
    save(figure, path)
