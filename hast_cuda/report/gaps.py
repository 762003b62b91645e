"""How much worse networks do on test images than on what they were trained on (Figure 2a)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hast_cuda.checks.typed import typed
from hast_cuda.report.canvas import closing, label, pyplot, require, require_numbers, save

WIDTH = 0.38  # of a bar; two beside each other per network


@closing
@typed
def draw_gaps(top1: Mapping[str, tuple[float, float]], path: Path) -> None:
    """Two bars per network: top-1 on its training images and on test images, in percent.

    Args:
        top1: (training, test) by the name of the network.
        path: of the SVG or PNG file.

    Raises:
        ValueError: no network. ImportError: no matplotlib.
    """
    require("top1", top1)
    require_numbers("top1", (value for pair in top1.values() for value in pair))
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(1.5 + 1.6 * len(top1), 4), layout="constrained")
    for shift, (index, kind) in zip((-0.5, 0.5), enumerate(("training", "test")), strict=True):
        heights = [pair[index] for pair in top1.values()]
        places = [i + shift * WIDTH for i in range(len(heights))]
        bars = axis.bar(places, heights, WIDTH, label=f"{kind} images")
        axis.bar_label(bars, fmt="%.1f", padding=2)
    axis.set_xticks(range(len(top1)), [label(name) for name in top1])
    lowest = min(min(pair) for pair in top1.values())
    axis.set_ylim(max(0.0, lowest - 15), 104)
    axis.set_ylabel("top-1 accuracy, %")
    axis.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    save(figure, path)
